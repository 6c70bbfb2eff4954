"""Where the Trainer's batches come from: overridable, one method a kind of loader."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch.utils.data import RandomSampler, SequentialSampler

from hftrain.core.data import DataModule
from hftrain.core.task import TaskModule
from hftrain.data.collators import default_data_collator
from hftrain.data.columns import PruningCollator, drop_unused, is_table, signature_columns
from hftrain.data.dealing import length_of
from hftrain.data.lengths import LengthGroupedSampler, lengths_of
from hftrain.data.loaders import KeptLoader, eval_loader, is_map_style, num_examples_of, train_loader
from hftrain.errors import ConfigurationError
from hftrain.trainer.settings import loader_settings, loop_settings
from hftrain.trainer.step_methods import StepMethods

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

logger = logging.getLogger(__name__)


class DataMethods(StepMethods):
    """Loaders for training, evaluation and prediction."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the training loader.

        Shuffled by seed and epoch, whole batches dealt to the ranks. Override it to return any loader.
        """
        return self._get_dataloader(
            dataset=self._training_data(),
            description="Training",
            batch_size=self._train_batch_size,
            sampler_fn=self._get_train_sampler,
            is_training=True,
        )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Return the loader of one evaluation set: given, named, or the only one there is."""
        return self._get_dataloader(
            dataset=self._one_eval_set(eval_dataset),
            description="Evaluation",
            batch_size=self.args.eval_batch_size,
            sampler_fn=self._get_eval_sampler,
            dataloader_key=eval_dataset if isinstance(eval_dataset, str) else "eval",
        )

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """Return the loader of a test set."""
        if self.args.group_by_length and not isinstance(self.model, TaskModule):
            logger.warning(
                "group_by_length=True: evaluation too reads samples grouped by length, so predictions and labels come "
                "in that order and not in the data set's. Set group_by_length=False before predict() to keep the order."
            )
        return self._get_dataloader(
            dataset=test_dataset,
            description="test",
            batch_size=self.args.eval_batch_size,
            sampler_fn=self._get_eval_sampler,
        )

    def num_examples(self, dataloader: DataLoader[Any]) -> int:
        """Return the samples of a loader's data set; where that has no length, batches times the batch size.

        Raises:
            TypeError: the loader has no length either.
        """
        known = num_examples_of(dataloader)
        return known if known is not None else len(dataloader) * self.args.per_device_train_batch_size

    def _get_dataloader(
        self,
        dataset: Any,
        description: str,
        batch_size: int,
        sampler_fn: Callable[[Any], Any] | None = None,
        is_training: bool = False,
        dataloader_key: str | None = None,
    ) -> DataLoader[Any]:
        """Return the loader of a data set; every loader of the Trainer's own is made here.

        Args:
            dataset: any data set.
            description: what it is for, in the log.
            batch_size: samples per process and batch.
            sampler_fn: gives the order of a map-style data set; None from it is the default order.
            is_training: shuffle, and let all ranks have equally many batches.
            dataloader_key: with persistent workers, the loader is kept under this name for the next evaluation.
        """
        settings = loader_settings(self.args, self._running_engine(), training=is_training, batch_size=batch_size)
        kept = self._kept_loaders.get(dataloader_key or "")
        if kept is not None and kept.serves(dataset, settings, self.data_collator):
            return kept.loader
        sampler = sampler_fn(dataset) if sampler_fn is not None and is_map_style(dataset) else None
        data, collate_fn = self._pruned(dataset, description)
        loader = (train_loader if is_training else eval_loader)(data, settings, collate_fn=collate_fn, sampler=sampler)
        if dataloader_key is not None and settings.persistent_workers:
            self._kept_loaders[dataloader_key] = KeptLoader(loader, dataset, settings, self.data_collator)
        return loader

    # ---- order --------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Return a torch Sampler over the training set, or None where it has no length.

        torch's `RandomSampler` stands for the order of our own, which follows from seed and epoch.
        """
        data = self._given_training_data() if train_dataset is None else train_dataset
        if not length_of(data):
            return None
        if self.args.group_by_length or getattr(self.args, "sortish_sampler", False):
            return self._length_sampler(data, self._train_batch_size * loop_settings(self.args).accumulation_steps)
        return RandomSampler(data)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """Return a torch Sampler over an evaluation set, or None for the data set's order dealt to the ranks."""
        if not length_of(eval_dataset):
            return None
        is_grouped = self.args.group_by_length and not self.args.use_legacy_prediction_loop
        if is_grouped and not isinstance(self.model, TaskModule):
            return self._length_sampler(eval_dataset, self.args.eval_batch_size)
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    def _length_sampler(self, data: Any, batch_size: int) -> LengthGroupedSampler:
        names = getattr(self.processing_class, "model_input_names", None)
        column = self.args.length_column_name
        lengths = lengths_of(data, column=column, key=names[0] if names else None)
        return LengthGroupedSampler(batch_size, lengths=lengths)

    # ---- columns ------------------------------------------------------------------------------------

    def _set_signature_columns_if_needed(self) -> None:
        """Set ``_signature_columns``: what a batch may hold. Override it to keep other columns."""
        if self._signature_columns is None:
            self._signature_columns = signature_columns(self.model, self.label_names)

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:
        """Return a `datasets.Dataset` without the columns that the model's forward does not take."""
        if not self._removes_columns():
            return dataset
        self._set_signature_columns_if_needed()
        return drop_unused(dataset, self._signature_columns or (), description=description or "given")

    def _get_collator_with_removed_columns(
        self, data_collator: Callable[[list[Any]], Any], description: str | None = None
    ) -> Callable[[list[Any]], Any]:
        """Return a collator that leaves out of each sample what the model's forward does not take."""
        if not self._removes_columns():
            return data_collator
        self._set_signature_columns_if_needed()
        return PruningCollator(data_collator, columns=self._signature_columns or (), description=description or "given")

    def _removes_columns(self) -> bool:
        return bool(self.args.remove_unused_columns) and not isinstance(self.model, TaskModule)

    def _pruned(self, data: Any, description: str) -> tuple[Any, Any]:
        """Return data and collate function that leave out what the model's forward does not take."""
        collate_fn = self._collate_fn()
        if is_table(data):
            return self._remove_unused_columns(data, description=description), collate_fn
        return data, self._get_collator_with_removed_columns(collate_fn, description=description)

    # ---- where the data is ----------------------------------------------------------------------------

    def _given_training_data(self) -> Any:
        return self.train_dataset if self.datamodule is None else self.datamodule.train_data()

    def _training_data(self) -> Any:
        data = self._given_training_data()
        if data is None:
            raise ConfigurationError(
                "Trainer: training requires a train_dataset, and none was given. Pass train_dataset=..., or "
                "datamodule=DataModule(train=...)."
            )
        return data

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
