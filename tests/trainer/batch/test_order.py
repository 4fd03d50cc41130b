"""The number of processes and passes changes nothing about which rows make up which step."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.batch.order import TOKENS_PER_PASS, RowOrder, Shape, checkpoint_steps, shape_for

BatchSampler = pytest.importorskip("torch.utils.data").BatchSampler
BatchSamplerShard = pytest.importorskip("accelerate.data_loader").BatchSamplerShard


def steps_seen(order: RowOrder, shape: Shape, chunk: int, blank: int) -> Iterator[list[int]]:
    """What all processes together train on, step by step, as accelerate deals it out."""
    loader = BatchSampler(order, batch_size=chunk, drop_last=False)
    shares = [list(loader)]
    if shape.processes > 1:
        shares = [
            list(BatchSamplerShard(loader, shape.processes, number))
            for number in range(shape.processes)
        ]
    assert len({len(share) for share in shares}) == 1, "nobody waits for a batch that never comes"
    batches_per_step = shape.micro * shape.passes // chunk
    for start in range(0, len(shares[0]), batches_per_step):
        rows = [
            row
            for share in shares
            for batch in share[start : start + batches_per_step]
            for row in batch
        ]
        yield [row for row in rows if row != blank]


@given(
    rows=st.integers(2, 60),
    batch_size=st.integers(2, 20),
    longest=st.integers(1, TOKENS_PER_PASS),
    processes=st.integers(1, 5),
    is_whole=st.booleans(),
    epoch=st.integers(0, 2),
)
def test_processes_and_passes_do_not_change_the_rows_of_a_step(
    rows: int, batch_size: int, longest: int, processes: int, is_whole: bool, epoch: int
) -> None:
    shape = shape_for(rows, batch_size=batch_size, longest=longest, processes=processes)
    chunk = shape.micro * shape.passes if is_whole else shape.micro
    order = RowOrder(rows, shape, chunk=chunk, seed=7)
    alone_shape = shape_for(rows, batch_size=batch_size, longest=1)
    alone = RowOrder(rows, alone_shape, chunk=alone_shape.micro, seed=7)
    for one in (order, alone):
        one.set_epoch(epoch)
    seen = [sorted(step) for step in steps_seen(order, shape, chunk, blank=rows)]
    assert seen == [sorted(step) for step in alone.steps()]
    assert sorted(row for step in seen for row in step) == list(range(rows))
    assert len(order) == len(list(order))
    assert order.has_blanks == (rows in list(order))


def test_each_epoch_has_an_order_of_its_own_that_repeats() -> None:
    order = RowOrder(10, shape_for(10, batch_size=4, longest=1), chunk=4, seed=3)
    first = list(order)
    order.set_epoch(1)
    assert list(order) != first
    order.set_epoch(0)
    assert list(order) == first, "a resumed epoch has the same order"


def test_a_step_is_repeated_whole_for_a_loader_that_moves_on_at_each_pass() -> None:
    shape = shape_for(3, batch_size=2, longest=TOKENS_PER_PASS)
    assert (shape.micro, shape.passes) == (1, 2)
    order = list(RowOrder(3, shape, chunk=2, seed=0, repeat=2))
    assert order[:2] == order[2:4]
    assert order[4:6] == order[6:8]
    assert 3 in order[4:6], "the last step is filled up with a blank"


def test_a_long_batch_is_cut_into_passes_and_shared_by_processes() -> None:
    assert shape_for(99, batch_size=16, longest=100) == Shape(16, 16, 1, 1)
    assert shape_for(99, batch_size=16, longest=4096) == Shape(16, 2, 8, 1)
    assert shape_for(99, batch_size=7, longest=4096) == Shape(7, 2, 4, 1)
    assert shape_for(99, batch_size=16, longest=4096, processes=4) == Shape(16, 2, 2, 4)
    assert shape_for(5, batch_size=16, longest=100, processes=2) == Shape(5, 3, 1, 2)


def test_a_round_is_saved_about_five_times() -> None:
    assert checkpoint_steps(1000, shape_for(1000, batch_size=10, longest=1), 2) == 40
    assert checkpoint_steps(4, shape_for(4, batch_size=2, longest=1), 1) == 1
