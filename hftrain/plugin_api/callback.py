"""The base of a callback that is a plugin, of the group ``hftrain.callbacks``."""

from hftrain.types.callback import TrainerCallback

__all__ = ["TrainerCallback"]
