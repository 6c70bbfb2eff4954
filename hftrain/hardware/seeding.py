"""Seeds, deterministic algorithms, and the state of every random generator of a process."""

from __future__ import annotations

import hashlib
import logging
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hftrain.errors import ConfigurationError, HardwareError

logger = logging.getLogger(__name__)

_MERSENNE_TWISTER = "MT19937"

# cuBLAS and the launch queue read these when CUDA starts, FlashAttention when it is called.
_DETERMINISTIC_ENVIRONMENT = {
    "CUDA_LAUNCH_BLOCKING": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":16:8",
    "FLASH_ATTENTION_DETERMINISTIC": "1",
}


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Seed Python, NumPy and torch on every device.

    Args:
        seed: 0 to 2**32 - 1, NumPy's limit.
        deterministic: also have torch use deterministic algorithms, and raise where there is none.

    Raises:
        ConfigurationError: the seed is out of range.
    """
    if not 0 <= seed < 2**32:
        raise ConfigurationError(f"seed={seed} is out of range. Set 0 to {2**32 - 1}, which NumPy accepts too.")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # CUDA's and MPS's generators too; lazily, when they have not started yet
    if deterministic:
        torch.use_deterministic_algorithms(True)


def seed_rank(seed: int, *, step: int, rank: int) -> None:
    """Seed a process that joins a run at a step: by no number that another process, or another step, is seeded by.

    Args:
        seed: of the run.
        step: optimizer steps done.
        rank: of the process.
    """
    set_seed(int.from_bytes(hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()[:4]))


def enable_full_determinism(seed: int, warn_only: bool = False) -> None:
    """Seed everything and make two runs on the same hardware bitwise equal, at a cost in speed.

    Call it before CUDA starts: cuBLAS reads its variable only then. Source:
    https://pytorch.org/docs/stable/notes/randomness.html

    Args:
        seed: as in `set_seed`.
        warn_only: warn, rather than raise, where torch has no deterministic algorithm.
    """
    set_seed(seed)
    os.environ.update(_DETERMINISTIC_ENVIRONMENT)
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def rng_state() -> dict[str, Any]:
    """The state of the generators of this process: JSON values and uint8 tensors only, no pickle.

    Keys: "python" and "numpy" (JSON), "torch" (tensor), and "cuda" or "mps" (tensor, this process's device) where that
    device has started; asking one that has not would start it.

    Raises:
        HardwareError: NumPy's global generator was replaced by one whose state has no known form.
    """
    version, words, gauss = random.getstate()
    state: dict[str, Any] = {
        "python": {"version": version, "words": list(words), "gauss": gauss},
        "numpy": _numpy_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what `rng_state` returned, after a round trip through JSON and tensors too.

    A device generator of the state that this machine lacks is left out and a line says so: the run goes on, but its
    random numbers on the device differ from the run that saved.
    """
    python = state["python"]
    random.setstate((python["version"], tuple(python["words"]), python["gauss"]))
    _set_numpy_state(state["numpy"])
    torch.set_rng_state(_bytes(state["torch"]))
    setters: dict[str, tuple[Callable[[], bool], Callable[[Tensor], None]]] = {
        "cuda": (torch.cuda.is_available, torch.cuda.set_rng_state),
        "mps": (torch.backends.mps.is_available, torch.mps.set_rng_state),
    }
    for device, (is_available, restore) in setters.items():
        if device not in state:
            continue
        if is_available():
            restore(_bytes(state[device]))
        else:
            logger.warning("The saved random state of %s was not restored: this machine has no such device.", device)


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Put the generators of this process back to where they were, whatever is drawn from them or seeded inside.

    One that the user put in the place of NumPy's own is left alone.
    """
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    is_started = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if is_started else []):
        try:
            yield
        finally:
            random.setstate(python)
            if numpy["bit_generator"] == _MERSENNE_TWISTER:
                np.random.set_state(numpy)


def _numpy_state() -> dict[str, Any]:
    state: Any = np.random.get_state(legacy=False)
    if state["bit_generator"] != _MERSENNE_TWISTER:
        raise HardwareError(
            f"NumPy's global generator is {state['bit_generator']}, and only {_MERSENNE_TWISTER} can be saved. "
            "Use a generator of your own (numpy.random.default_rng) rather than replacing the global one."
        )
    twister = state["state"]
    return {
        "words": twister["key"].tolist(),
        "position": int(twister["pos"]),
        "has_gauss": int(state["has_gauss"]),
        "gauss": float(state["gauss"]),
    }


def _set_numpy_state(state: dict[str, Any]) -> None:
    words = np.array(state["words"], dtype=np.uint32)
    np.random.set_state((_MERSENNE_TWISTER, words, state["position"], state["has_gauss"], state["gauss"]))


def _bytes(state: Tensor) -> Tensor:
    return state.to(device="cpu", dtype=torch.uint8)
