from __future__ import annotations

from typing import Any

import pytest

from hftrain.plugin_api.space import Choice, Integers, Uniform, integers, loguniform, space_of, uniform


def test_a_space_is_read_from_distributions_lists_and_yaml() -> None:
    document: dict[str, Any] = {"a": loguniform(1e-5, 1e-2), "b": [0.0, 0.1], "c": {"int": [1, 8]}}
    document |= {"d": {"loguniform": ["1e-5", "1e-2"]}, "e": {"uniform": [0, 1]}}
    assert space_of(document) == {
        "a": Uniform(1e-5, 1e-2, log=True),
        "b": Choice((0.0, 0.1)),
        "c": Integers(1, 8),
        "d": Uniform(1e-5, 1e-2, log=True),
        "e": Uniform(0, 1),
    }


@pytest.mark.parametrize("value", [0.1, "abc", {}, [], {"normal": [0, 1]}, {"uniform": 3}, {"uniform": [2, 1]}])
def test_what_is_no_distribution_is_named(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^lr: .* is no distribution.*Write a list to choose from"):
        space_of({"lr": value})


@pytest.mark.parametrize("make", [lambda: uniform(1, 1), lambda: loguniform(0, 1), lambda: integers(2, 1)])
def test_an_empty_distribution_is_an_error(make: Any) -> None:
    with pytest.raises(ValueError, match="low must"):
        make()
