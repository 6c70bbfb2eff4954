"""Where names are imported from that belong to ``transformers`` and not to hftrain.

A script that changes its import line to ``from hftrain import ...`` may carry over a name too many; the error then
names the line that works. Most names of ``transformers`` (4.53.1 has 3,600) are models, configurations, tokenizers and
processors, which their endings give away.
"""

from __future__ import annotations

import re

_FAMILIES = (
    r"(Model|Config|Tokenizer(Fast)?|Processor(Fast)?|FeatureExtractor|Pipeline|LMHeadModel|With[A-Z]\w+|For[A-Z]\w+)",
    r"(Encoder|Decoder|Embeddings|Embedder|Layer|Backbone|Attention|Transformer|MLP|Router|Head|VQVAE|HifiGan|Scorer)",
    r"(Criteria|LogitsWarper|(Processor|Criteria)List|Cache|Streamer|Constraint|Detector|Reader|Retriever|Output)",
    r"(Dataset|DataFormat|Features|Example|TrainingArguments|Mixin|Mapping|Interface)",
)
_PATTERNS = re.compile(
    "|".join(
        [
            rf"([A-Z]\w*)?({'|'.join(_FAMILIES)})",
            r"[A-Z0-9_]+_(MAPPING|MAPPING_NAMES|NAMES?|CACHE|ARCHIVE_MAP)",
            r"is_\w+_available",
            r"(load_tf|load_pytorch|glue|squad|xnli|convert_tf)_?\w+",
            r"(configuration|modeling|tokenization|processing|feature_extraction)_\w+",
        ]
    )
)

_NAMES = """
AdamWeightDecay AdaptiveEmbedding AddedToken BatchEncoding BatchFeature CharSpan ConstraintListState Conv1D
DataCollator DataCollatorForSOP DummyObject ExponentialDecayLengthPenalty FlavaImageCodebook GradientAccumulator
JukeboxPrior KerasMetricCallback LogitNormalization ModelCard PreTrainedTokenizerBase PushToHubCallback
ROPE_INIT_FUNCTIONS SLOW_TO_FAST_CONVERTERS SPIECE_UNDERLINE SqueezeBertModule TFAdaptiveEmbedding TFSequenceSummary
TensorType TokenSpan TransfoXLCorpus WarmUp activations add_end_docstrings add_start_docstrings
apply_chunking_to_forward audio_utils cache_utils commands convert_and_export_with_cache convert_graph_to_onnx
convert_slow_tokenizer convert_slow_tokenizers_checkpoints_to_fast create_optimizer debug_utils
dependency_versions_check dependency_versions_table dynamic_module_utils dynamic_rope_update file_utils generation
get_values hf_argparser hyperparameter_search image_processing_base image_processing_utils image_transforms image_utils
integrations logging loss masking_utils
model_addition_debugger_context model_debugging_utils modelcard models onnx optimization pipeline pipelines
prune_layer pytorch_utils quantizers requires_backends sagemaker shape_list testing_utils time_series_utils
torch_distributed_zero_first trainer_callback trainer_pt_utils trainer_seq2seq trainer_utils training_args
training_args_seq2seq training_args_tf utils video_utils
"""

_INSIDE = {  # what training scripts import from transformers' modules rather than from transformers
    "hf_argparser": "HfArg string_to_bool",
    "modeling_utils": "unwrap_model",
    "trainer_callback": "CallbackHandler",
    "trainer_pt_utils": (
        "AcceleratorConfig DistributedTensorGatherer IterableDatasetShard LabelSmoother LengthGroupedSampler "
        "ShardSampler distributed_concat find_batch_size get_model_param_count get_parameter_names nested_concat "
        "nested_detach nested_numpify"
    ),
    "trainer_utils": (
        "EvaluationStrategy FSDPOption PREFIX_CHECKPOINT_DIR RemoveColumnsCollator TrainerMemoryTracker "
        "denumpify_detensorize find_executable_batch_size has_length is_main_process number_of_arguments seed_worker "
        "total_processes_number"
    ),
}


def import_line(name: str) -> str | None:
    """Return the line that imports the name from ``transformers``, or None if it does not look like one of its."""
    for module, names in _INSIDE.items():
        if name in names.split():
            return f"from transformers.{module} import {name}"
    is_known = name in _NAMES.split() or _PATTERNS.fullmatch(name) is not None
    return f"from transformers import {name}" if is_known else None
