from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hftrain.plugin_api.testing import ContractError, check_search_backend
from tests.plugin_api.testing import searches


@pytest.mark.parametrize("backend", [searches.RandomSearch, searches.Kept, searches.OwnLoop])
def test_a_backend_that_keeps_to_the_contract_passes(tmp_path: Path, backend: Any) -> None:
    check_search_backend(backend, tmp_path)


@pytest.mark.parametrize(
    ("backend", "text"),
    [
        (str, r"must subclass hftrain\.plugin_api\.search\.SearchBackend"),
        (searches.NoKey, "says 'NO_SUCH_KEY is not set'"),
        (searches.SameId, "Trials share an id"),
        (searches.PathAsId, "'a/1' cannot be a trial's id"),
        (searches.TextForNumber, r"has layers='\d', which is not in Integers"),
        (searches.LeavesOneOut, r"has the parameters \['learning_rate'\]"),
        (searches.EndsEarly, "6 trials were asked for, and 2 are in the result"),
        (searches.AlwaysLeast, r"The best for \['maximize'\] is"),
        (searches.TakesAnything, "an option it does not know is no error"),
        (searches.Forgets, "9 trials were asked for, and 3|3 trials ended, and"),
        (searches.NeverStops, "max_failures=1, and all fail: 10 trials ran"),
        (searches.TellsNobody, r"told\(\) heard of \[\]"),
        (searches.NoLoop, "NoLoop must override open"),
    ],
)
def test_what_it_does_not_keep_to_is_named(tmp_path: Path, backend: Any, text: str) -> None:
    with pytest.raises((ContractError, NotImplementedError), match=text):
        check_search_backend(backend, tmp_path)
