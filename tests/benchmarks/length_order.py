"""How long the order of group_by_length takes for a million samples, from an Arrow column to a list of indices.

    python tests/benchmarks/length_order.py [--samples 1000000] [--repeats 5] [--json]

The lengths stand in a column of a `datasets.Dataset`, as it was made or shuffled. Measured are reading them and the
order of one epoch, for hftrain and for transformers' sampler, which is given its lengths as the list it asks for. The
figure is the least of the repeats, in seconds of this process.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers.trainer_pt_utils import LengthGroupedSampler as ReferenceSampler

from hftrain.data.lengths import LengthGroupedSampler, lengths_of

BATCH_SIZE = 32
LONGEST = 512


def hftrain_order(data: Any) -> list[int]:
    """Read the column as numbers and draw the order from them."""
    return list(LengthGroupedSampler(BATCH_SIZE, lengths=lengths_of(data, column="length")))


def reference_order(data: Any) -> list[int]:
    """Read the column as a list, as transformers' Trainer does."""
    return list(ReferenceSampler(BATCH_SIZE, lengths=list(data["length"])))


def least_seconds(order: Callable[[Any], list[int]], data: Any, repeats: int) -> float:
    """Time one epoch's order."""
    seconds = []
    for _ in range(repeats):
        begin = time.process_time()
        order(data)
        seconds.append(time.process_time() - begin)
    return min(seconds)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    lengths = np.random.default_rng(0).integers(1, LONGEST, options.samples)
    made = Dataset.from_dict({"length": lengths})
    rows = {
        f"{arrangement}, {library}": least_seconds(order, data, options.repeats)
        for arrangement, data in (("as made", made), ("shuffled", made.shuffle(seed=0)))
        for library, order in (("hftrain", hftrain_order), ("transformers", reference_order))
    }
    if options.json:
        print(json.dumps({"samples": options.samples, "seconds": rows}))
    else:
        for name, seconds in rows.items():
            print(f"{name:28}{seconds:8.3f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
