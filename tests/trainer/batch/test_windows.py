"""Windows hold the answer and enough before it, and calls that follow each other share one."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.records import a_selection, a_trajectory, a_transition
from trainer.algorithms.plugins import asks_of
from trainer.algorithms.sequence import taken
from trainer.batch.merging import merge, tokens_of
from trainer.batch.samples import Exclusion, Sample, samples_of
from trainer.batch.windows import LEAST_CONTEXT, start_of_window
from trajectories.model import Choice, Transition
from trajectories.settings import TrainerSettings


def conversation(turns: int, *, opening: int = 40, turn: int = 10) -> tuple[Transition, ...]:
    """Calls that each say again all that was said before, in tokens that occur once."""
    said = tuple(range(opening))
    found = []
    for number in range(turns):
        answer = tuple(1000 * (number + 1) + place for place in range(turn))
        choice = Choice(token_ids=answer, logprobs=(-1.0,) * turn)
        call = a_transition("t1", number=number, prompt_token_ids=said, choices=(choice,))
        found.append(call)
        said = (*said, *answer, *(place + 500 for place in answer))
    return tuple(found)


def samples(transitions: tuple[Transition, ...], **rules: Any) -> tuple[list[Sample], Any]:
    return samples_of(a_trajectory(transitions=transitions), a_selection(**rules))


@given(st.integers(1, 500), st.integers(1, 200), st.integers(16, 200))
def test_a_window_holds_the_answer_and_some_of_what_came_before(
    prompt: int, answer: int, limit: int
) -> None:
    start = start_of_window(prompt, answer, limit)
    if start is None:
        assert answer > limit - limit / LEAST_CONTEXT - 1, "only a long answer is in the way"
    elif start == 0:
        assert prompt + answer <= limit
    else:
        assert prompt - start + answer <= limit
        assert prompt - start >= limit / LEAST_CONTEXT


def test_what_fits_is_not_cut() -> None:
    assert start_of_window(90, 10, 100) == 0


def test_calls_that_follow_each_other_share_a_window() -> None:
    starts = [start_of_window(prompt, 10, 100) for prompt in range(50, 250, 20)]
    assert starts == [0, 0, 0, 50, 50, 100, 100, 100, 150, 150]


def test_a_call_that_fits_is_kept_whatever_becomes_of_the_others_of_its_trajectory() -> None:
    calls = conversation(9)  # they end at 50, 70, 90, 110 tokens, ...
    short = a_transition("t1", number=9)  # a client that says less of what was said
    found, excluded = samples((*calls, short))
    assert [sample.id for sample in found] == ["t1-0/0", "t1-1/0", "t1-2/0", "t1-9/0"]
    assert excluded == {Exclusion.TOO_LONG: 6}
    assert [len(row.spans) for row in merge(found)] == [3, 1]


def test_a_trajectory_that_outgrows_a_row_goes_on_in_the_next_at_the_border_of_a_call() -> None:
    calls = conversation(9)
    found, excluded = samples(calls, needs_ratio=False, cuts_context=True)
    assert not excluded
    rows = merge(found)
    assert len(rows) < len(calls)
    held = [span.sample for row in rows for span in row.spans]
    assert held == list(range(len(calls))), "every call once, in its order"
    for row in rows:
        tokens = tokens_of(row, found)
        assert len(tokens) <= 100
        for span in row.spans:
            call = calls[span.sample]
            whole = call.prompt_token_ids + call.choices[0].token_ids
            assert tokens[: span.stop] == whole[-span.stop :], "what came right before, unchanged"


def test_what_was_cut_says_so_and_has_no_ratio() -> None:
    found, _ = samples(conversation(4), needs_ratio=False, cuts_context=True)
    assert [sample.cut for sample in found] == [0, 0, 0, 50]
    assert [sample.has_ratio for sample in found] == [True, True, True, False]
    assert found[-1].prompt_token_ids[0] != 0


def test_an_answer_that_leaves_no_room_is_too_long_all_the_same() -> None:
    choice = Choice(token_ids=tuple(range(90)), logprobs=(-1.0,) * 90)
    call = a_transition("t1", prompt_token_ids=tuple(range(50)), choices=(choice,))
    assert samples((call,), needs_ratio=False, cuts_context=True)[1] == {Exclusion.TOO_LONG: 1}


def test_only_algorithms_that_ask_for_no_ratio_and_no_same_prompt_take_windows() -> None:
    settings = TrainerSettings()
    found, _ = samples(conversation(4), needs_ratio=False, cuts_context=True)
    takes = {name: asks_of(name, settings) for name in ("sft", "kto", "dpo", "grpo")}
    kept = {name: len(taken(found, asked, 0)) for name, asked in takes.items()}
    assert kept == {"sft": 4, "kto": 4, "dpo": 3, "grpo": 3}
    assert asks_of("sft+grpo", settings).takes_windows
    assert not asks_of("grpo+dpo", settings).takes_windows
