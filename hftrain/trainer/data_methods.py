"""Where the Trainer's batches come from: overridable, one method a kind of loader."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hftrain.core.data import DataModule
from hftrain.core.task import TaskModule
from hftrain.data.collators import default_data_collator
from hftrain.data.columns import PruningCollator, drop_unused, is_table, signature_columns
from hftrain.data.loaders import eval_loader, train_loader
from hftrain.errors import ConfigurationError
from hftrain.trainer.settings import loader_settings
from hftrain.trainer.step_methods import StepMethods

if TYPE_CHECKING:
    from torch.utils.data import DataLoader


class DataMethods(StepMethods):
    """Loaders for training, evaluation and prediction."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the training loader.

        Shuffled by seed and epoch, whole batches dealt to the ranks. Override it to return any loader.
        """
        engine = self._running_engine()
        data = self._training_data()
        settings = replace(loader_settings(self.args, engine, training=True), batch_size=self._train_batch_size)
        sampler = self._get_train_sampler(data)
        data, collate_fn = self._pruned(data, "training")
        return train_loader(data, settings, collate_fn=collate_fn, sampler=sampler)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Return the loader of one evaluation set: given, named, or the only one there is."""
        data = self._one_eval_set(eval_dataset)
        return self._eval_loader(data, "evaluation")

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """Return the loader of a test set."""
        return self._eval_loader(test_dataset, "test")

    def _eval_loader(self, data: Any, description: str) -> DataLoader[Any]:
        settings = loader_settings(self.args, self._running_engine(), training=False)
        data, collate_fn = self._pruned(data, description)
        return eval_loader(data, settings, collate_fn=collate_fn)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Return a torch Sampler over the training set, or None for the seeded order of our own."""
        return None

    def _training_data(self) -> Any:
        if self.datamodule is not None:
            return self.datamodule.train_data()
        if self.train_dataset is None:
            raise ConfigurationError(
                "Trainer: training requires a train_dataset, and none was given. Pass train_dataset=..., or "
                "datamodule=DataModule(train=...)."
            )
        return self.train_dataset

    def _evaluation_data(self) -> Any:
        """Return one set, or a dict of named ones."""
        if self.datamodule is not None:
            return self.datamodule.eval_data()
        if self.eval_dataset is None:
            raise ConfigurationError(
                "Trainer: evaluation requires an eval_dataset, and none was given. Pass eval_dataset=..., "
                "datamodule=DataModule(eval=...), or evaluate(data)."
            )
        return self.eval_dataset

    def _one_eval_set(self, eval_dataset: Any) -> Any:
        if eval_dataset is None:
            eval_dataset = self._evaluation_data()
        if isinstance(eval_dataset, str):
            sets = self._evaluation_data()
            if not isinstance(sets, dict) or eval_dataset not in sets:
                known = ", ".join(sets) if isinstance(sets, dict) else "one set without a name"
                raise ConfigurationError(f"eval_dataset={eval_dataset!r} is not one of the evaluation sets: {known}.")
            return sets[eval_dataset]
        return eval_dataset

    def _collate_fn(self) -> Any:
        if self.data_collator is not None:
            return self.data_collator
        if self.datamodule is not None and self.datamodule.collate_fn is not None:
            return self.datamodule.collate_fn
        return None if isinstance(self.model, TaskModule) else default_data_collator

    def _pruned(self, data: Any, description: str) -> tuple[Any, Any]:
        """Return data and collate function that leave out what the model's forward does not take."""
        collate_fn = self._collate_fn()
        if isinstance(self.model, TaskModule) or not self.args.remove_unused_columns:
            return data, collate_fn
        columns = signature_columns(self.model, self.label_names)
        if is_table(data):
            return drop_unused(data, columns, description=description), collate_fn
        return data, PruningCollator(collate_fn, columns=columns, description=description)

    def _has_evaluation_data(self) -> bool:
        if self.datamodule is not None:
            return self.datamodule.has("eval")
        return self.eval_dataset is not None

    def _set_up_data(self, stage: str) -> None:
        """Let a DataModule prepare its data once per node and set up on every process, once a stage.

        Inside `train` the stage is "fit" for everything. All ranks must call this.
        """
        if self.datamodule is None or stage in self._stages_set_up or (self.is_in_train and stage != "fit"):
            return
        engine = self._running_engine()
        if engine.is_local_process_zero and not self._stages_set_up:
            self.datamodule.prepare_data()
        engine.barrier()
        self.datamodule.setup(stage)
        self._stages_set_up.add(stage)

    def _refuse_two_sources(self) -> None:
        if self.datamodule is None:
            return
        if not isinstance(self.datamodule, DataModule):
            raise ConfigurationError(
                f"datamodule={self.datamodule!r} is a {type(self.datamodule).__name__}. Pass a hftrain.DataModule."
            )
        for name in ("train_dataset", "eval_dataset"):
            if getattr(self, name) is not None:
                raise ConfigurationError(
                    f"Both datamodule and {name} were given, and only one can be the source of the data. "
                    f"Leave out {name}, or pass the data sets without a DataModule."
                )
