"""A round sorted out with its rows on disk: the same rows as with everything in memory."""

import tracemalloc
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.records import a_selection, a_trajectory, a_transition
from trainer.batch.batching import sort_out
from trainer.batch.caps import Caps
from trainer.batch.samples import Sample, samples_of
from trajectories.model import Choice, Reward, Trajectory
from trajectories.store import TrajectoryRef

CAPS = Caps(share=0.3, least=1, ignored=frozenset({"spammer"}))

votes = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob", "eve", "spammer"]),
        st.sampled_from([-1.0, 0.0, 0.5, 1.0]),
        st.sampled_from([None, 0, 1]),  # of the whole, or of one call
    ),
    max_size=3,
)


def trajectory(number: int, said: list[tuple[str, float, int | None]]) -> Trajectory:
    name = f"t{number}"
    rewards = tuple(
        Reward(
            id=f"{name}-{at}",
            trajectory_id=name,
            transition_id=None if call is None else f"{name}-{call}",
            name="reward",
            source=f"feedback:human:{who}",
            value=value,
        )
        for at, (who, value, call) in enumerate(said)
    )
    steps = tuple(a_transition(name, number=n, agent=("a", "b")[n]) for n in range(2))
    value = sum(value for _, value, _ in said) / len(said) if said else None
    return a_trajectory(name, value, transitions=steps, rewards=rewards)


@settings(deadline=None)
@given(st.lists(votes, max_size=12))
def test_rows_are_those_of_each_trajectory_without_what_was_left_out(
    said: list[list[tuple[str, float, int | None]]],
) -> None:
    made = [trajectory(number, votes) for number, votes in enumerate(said)]
    selection = a_selection()  # all rows: what no row is made of was left out
    batch = sort_out([(TrajectoryRef("default", t.id), t) for t in made], selection, CAPS)
    rows = list(batch.samples)
    kept = {vote for row in rows for vote in row.feedback}
    assert not any("spammer" in row.principals for row in rows)
    dropped = frozenset(reward.id for t in made for reward in t.rewards) - kept
    expected = [row for t in made for row in samples_of(t, selection, dropped)[0]]
    assert rows == expected
    assert [Sample.from_json(line) for line in batch.samples.lines()] == expected
    assert {row.trajectory for row in rows} == set(batch.refs)
    assert not {*batch.refs} & {*batch.set_aside, *batch.left_over}
    assert len(batch.refs) + batch.excluded.total() == batch.examined == len(made)


def long_ones(count: int, tokens: int) -> Iterator[tuple[TrajectoryRef, Trajectory]]:
    choice = Choice(token_ids=(7,) * tokens, logprobs=(-1.0,) * tokens, finish_reason="stop")
    for number in range(count):
        name = f"t{number}"
        step = a_transition(name, choices=(choice,))
        yield (
            TrajectoryRef("default", name),
            a_trajectory(name, number / count, transitions=(step,)),
        )


def test_tokens_and_texts_are_not_kept_in_memory() -> None:
    selection = a_selection(max_length=100_000)
    sort_out(long_ones(1, 10), selection)  # what is made once
    tracemalloc.start()
    try:
        batch = sort_out(long_ones(150, 20_000), selection)
        assert sum(len(line) for line in batch.samples.lines()) > 15_000_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert batch.samples.tokens == 150 * 20_003
    assert peak < 6 << 20
