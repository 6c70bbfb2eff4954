from __future__ import annotations

import pytest

from hftrain.errors import HardwareError
from hftrain.hardware.world import World, read_world

TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}


def test_without_a_launcher_the_process_is_alone() -> None:
    assert read_world({}) == World()
    assert World().is_world_process_zero
    assert World().is_local_process_zero


def test_torchrun_variables_are_read() -> None:
    world = read_world(TORCHRUN)
    assert world == World(process_index=3, local_process_index=1, world_size=4, local_world_size=2, num_nodes=2)
    assert not world.is_world_process_zero
    assert not world.is_local_process_zero


def test_slurm_and_fabric_variables_change_nothing() -> None:
    assert read_world({"SLURM_NTASKS": "8", "SLURM_PROCID": "3", "LT_DEVICES": "2", "LT_NUM_NODES": "2"}) == World()


def test_one_process_of_torchrun_needs_nothing_else() -> None:
    assert read_world({"WORLD_SIZE": "1", "RANK": "0"}) == World()


def test_a_world_size_without_a_launcher_is_refused() -> None:
    with pytest.raises(HardwareError, match=r"WORLD_SIZE=4 .* RANK, LOCAL_RANK, LOCAL_WORLD_SIZE is not set.*torchrun"):
        read_world({"WORLD_SIZE": "4"})


@pytest.mark.parametrize(
    "changes",
    [{"RANK": "4"}, {"RANK": "-1"}, {"LOCAL_RANK": "2"}, {"LOCAL_WORLD_SIZE": "3"}, {"LOCAL_WORLD_SIZE": "8"}],
)
def test_contradictory_variables_are_refused_with_their_values(changes: dict[str, str]) -> None:
    name, value = next(iter(changes.items()))
    with pytest.raises(HardwareError, match=f"{name}={value}"):
        read_world({**TORCHRUN, **changes})


def test_a_malformed_variable_is_named() -> None:
    with pytest.raises(HardwareError, match="WORLD_SIZE='two' is not an integer"):
        read_world({**TORCHRUN, "WORLD_SIZE": "two"})
