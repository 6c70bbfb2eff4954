"""Tokens are counted from shapes, once, as the loop draws its batches."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from hftrain.core.counting import ObservedSource, TokenCounter
from hftrain.data.epochs import EpochLoader
from hftrain.types.state import TrainerState

BATCHES = [{"input_ids": torch.ones(2, 3)}, {"input_ids": torch.ones(2, 5)}, {"input_ids": torch.ones(1, 4)}]


def test_an_observed_source_shows_each_batch_as_it_is_drawn() -> None:
    seen: list[Any] = []
    source = ObservedSource(EpochLoader(BATCHES), [seen.append])
    drawn = source.open(0)
    assert seen == []
    next(drawn)
    assert len(seen) == 1
    assert [*drawn] == BATCHES[1:]
    assert seen == BATCHES


def test_an_observed_source_is_as_long_as_what_it_observes() -> None:
    source = ObservedSource(EpochLoader(BATCHES), [])
    assert (source.num_batches, source.num_samples, source.global_batch_size) == (3, None, None)
    assert not source.exact_length
    assert source.remaining(samples_done=0, batches_done=1) == 2
    assert source.num_real(0) is None


def test_batches_done_before_are_not_observed_again() -> None:
    seen: list[Any] = []
    list(ObservedSource(EpochLoader(BATCHES), [seen.append]).open(0, batches_done=2))
    assert seen == BATCHES[2:]


def test_on_one_process_the_state_knows_at_once() -> None:
    state = TrainerState(num_input_tokens_seen=100)
    count = TokenCounter("input_ids", state)
    for batch in BATCHES:
        count(batch)
    assert (count.num_tokens, state.num_input_tokens_seen) == (20, 120)


def test_on_several_processes_the_state_knows_after_settling() -> None:
    state = TrainerState()
    count = TokenCounter("input_ids", state, reduce=lambda number: 2 * number)
    count(BATCHES[0])
    assert state.num_input_tokens_seen == 0
    count.settle()
    count.settle()
    assert (count.num_tokens, state.num_input_tokens_seen) == (6, 12)


def test_what_is_rewound_is_counted_when_it_comes_again() -> None:
    state = TrainerState()
    count = TokenCounter("input_ids", state)
    count(BATCHES[0])
    before = count.num_tokens
    count(BATCHES[1])
    count.rewind(before)
    assert (count.num_tokens, state.num_input_tokens_seen) == (6, 6)


def test_batches_without_the_input_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    count = TokenCounter("pixel_values", TrainerState())
    with caplog.at_level(logging.WARNING):
        count(BATCHES[0])
        count([torch.ones(2)])
    assert [record.getMessage() for record in caplog.records if "no tensor 'pixel_values'" in record.getMessage()] == [
        caplog.records[0].getMessage()
    ]
    assert count.num_tokens == 0
