from __future__ import annotations

from pathlib import Path

import pytest

from hftrain.errors import NotAvailableError
from tests.trainer.tasks import trainer


@pytest.mark.parametrize(
    "name",
    [
        "hyperparameter_search",
        "init_hf_repo",
        "push_to_hub",
        "propagate_args_to_deepspeed",
    ],
)
def test_a_method_of_a_later_version_says_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotAvailableError, match=name):
        getattr(trainer(tmp_path), name)()


def test_a_script_that_ends_with_a_model_card_ends_well(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer(tmp_path).create_model_card(model_name="mine", tasks="text-classification")
    assert "create_model_card() is not available in this version: no README.md was written" in caplog.text
