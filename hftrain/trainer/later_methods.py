"""Documented methods that this version does not have yet: they say so, and what to do instead."""

from __future__ import annotations

import logging
from typing import Any, NoReturn

from hftrain.errors import NotAvailableError
from hftrain.trainer.save_methods import SaveMethods

logger = logging.getLogger(__name__)


class LaterMethods(SaveMethods):
    """Search, the hub and DeepSpeed."""

    def hyperparameter_search(
        self,
        hp_space: Any = None,
        compute_objective: Any = None,
        n_trials: int = 20,
        direction: str | list[str] = "minimize",
        backend: Any = None,
        hp_name: Any = None,
        **kwargs: Any,
    ) -> NoReturn:
        """Raise `NotAvailableError`: hyperparameter search is not there yet."""
        raise NotAvailableError(
            "hyperparameter_search() is not available in this version. Make a Trainer per trial in a search of your "
            "own, for instance in an Optuna objective."
        )

    def init_hf_repo(self, token: str | None = None) -> NoReturn:
        """Raise `NotAvailableError`: pushing to a hub is not there yet."""
        raise NotAvailableError(
            "init_hf_repo() is not available in this version. Make the repository with huggingface_hub.create_repo."
        )

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> NoReturn:
        """Raise `NotAvailableError`: pushing to a hub is not there yet."""
        raise NotAvailableError(
            "push_to_hub() is not available in this version. Call save_model(), and upload the folder with "
            "huggingface_hub.upload_folder."
        )

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,  # noqa: A002 - the documented name
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Warn that model cards are not there yet: scripts end with this call, hours after they began."""
        logger.warning(
            "create_model_card() is not available in this version: no README.md was written into %s. "
            "huggingface_hub.ModelCard helps to write one.",
            self.args.output_dir,
        )

    def propagate_args_to_deepspeed(self, auto_find_batch_size: bool = False) -> NoReturn:
        """Raise `NotAvailableError`: DeepSpeed is not there yet."""
        raise NotAvailableError(
            "propagate_args_to_deepspeed() is not available in this version, which trains without DeepSpeed: under "
            "torchrun DistributedDataParallel is used."
        )
