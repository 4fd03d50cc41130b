"""Merged rows hold what was recorded: every sample once, byte for byte, in few tokens."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.records import a_sample
from trainer.batch.merging import Row, merge, saving, tokens_of
from trainer.batch.samples import Sample


def call(trajectory: str, prompt: tuple[int, ...], answer: tuple[int, ...], **more: Any) -> Sample:
    fields = {"id": f"{trajectory}-{len(prompt)}", "logprobs": tuple(-1.0 for _ in answer), **more}
    return a_sample(trajectory, 1.0, prompt_token_ids=prompt, token_ids=answer, **fields)


def conversation(trajectory: str, turns: int, *, opening: int = 20, turn: int = 10) -> list[Sample]:
    """Calls that each say again all that was said before."""
    said: tuple[int, ...] = tuple(range(opening))
    found = []
    for number in range(turns):
        answer = tuple(100 * (number + 1) + place for place in range(turn))
        found.append(call(trajectory, said, answer))
        said = (*said, *answer, *(7 for _ in range(turn)))
    return found


def read_back(rows: list[Row], samples: list[Sample]) -> dict[int, tuple[int, ...]]:
    """Sample -> prompt and answer, as they stand in its row."""
    found = {}
    for row in rows:
        tokens = tokens_of(row, samples)
        assert len(tokens) == row.length
        for span in row.spans:
            assert span.sample not in found, "no sample is in two rows"
            assert tokens[span.start : span.stop] == samples[span.sample].token_ids
            found[span.sample] = tokens[: span.stop]
    return found


def test_calls_that_go_on_from_each_other_share_a_row() -> None:
    (row,) = merge(conversation("t", 4))
    assert [span.sample for span in row.spans] == [0, 1, 2, 3]
    assert row.context == 20
    places = [(span.start, span.stop) for span in row.spans]
    assert places == [(20, 30), (40, 50), (60, 70), (80, 90)]


def test_ten_turns_take_less_than_a_third_of_the_tokens() -> None:
    saved = saving(merge(conversation("t", 10)))
    assert saved.separate >= 3 * saved.merged
    assert saved.share == 1 - saved.merged / saved.separate


def test_what_was_said_otherwise_starts_a_row_of_its_own() -> None:
    first, second, third = conversation("t", 3)
    edited = second.model_copy(
        update={"prompt_token_ids": (5, *second.prompt_token_ids[1:]), "id": "edited"}
    )
    rows = merge([first, edited, third])
    assert [[span.sample for span in row.spans] for row in rows] == [[0, 2], [1]]


def test_an_answer_that_lost_its_last_token_is_not_gone_on_from() -> None:
    """Some templates drop the end token from what they say again."""
    first = call("t", (1, 2), (3, 9))
    second = call("t", (1, 2, 3, 4), (5,))
    assert len(merge([first, second])) == 2


def test_only_one_choice_of_a_call_is_gone_on_from() -> None:
    one, two = call("t", (1, 2), (3, 4)), call("t", (1, 2), (5, 6))
    after = call("t", (1, 2, 5, 6, 8), (9,))
    rows = merge([one, two, after])
    assert [[span.sample for span in row.spans] for row in rows] == [[0], [1, 2]]


def test_equal_prompts_of_different_trajectories_stay_apart() -> None:
    rows = merge([*conversation("t", 2), *conversation("u", 2)])
    assert [[span.sample for span in row.spans] for row in rows] == [[0, 1], [2, 3]]


def test_a_sample_is_a_row_where_merging_is_off() -> None:
    rows = merge(conversation("t", 4), is_on=False)
    assert [len(row.spans) for row in rows] == [1, 1, 1, 1]
    assert saving(rows).share == 0.0


@st.composite
def trees(draw: st.DrawFn) -> list[Sample]:
    """Calls over two tokens, which often go on from each other and often only nearly so."""
    token = st.integers(0, 1)
    found: list[Sample] = []
    for trajectory in draw(st.sampled_from([["t"], ["t", "u"]])):
        said: list[tuple[int, ...]] = [(0,)]
        for number in range(draw(st.integers(1, 8))):
            before = draw(st.sampled_from(said))
            prompt = (*before, *draw(st.lists(token, max_size=2)))
            answer = tuple(draw(st.lists(token, min_size=1, max_size=3)))
            found.append(call(trajectory, prompt, answer, id=f"{trajectory}{number}"))
            said.append(prompt + answer)
    return found


@given(trees())
def test_spans_read_back_give_every_sample_once_and_byte_for_byte(samples: list[Sample]) -> None:
    rows = merge(samples)
    found = read_back(rows, samples)
    assert found == {
        number: sample.prompt_token_ids + sample.token_ids for number, sample in enumerate(samples)
    }
    for row in rows:
        of_row = [samples[span.sample].trajectory for span in row.spans]
        assert len(set(of_row)) == 1
        assert all(a.stop <= b.start for a, b in zip(row.spans, row.spans[1:], strict=False))
    assert saving(rows).merged <= saving(merge(samples, is_on=False)).merged
