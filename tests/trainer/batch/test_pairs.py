"""Which answers stand against each other."""

from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.records import a_sample, a_selection, a_trajectory, a_transition, make_trainable
from trainer.batch.batching import Demand, look, require, selection_for, shortages_of, sort_out
from trainer.batch.corrections import answer_in, corrections_of
from trainer.batch.pairs import Pair, answer_of, pairs_among
from trainer.batch.samples import Correction, Exclusion, Sample, samples_of
from trajectories.model import Choice, Feedback, Reward, Trajectory
from trajectories.settings import Settings
from trajectories.store import Store, TrajectoryRef


def an_answer(number: int, reward: float, *tokens: int, **changes: object) -> Sample:
    return a_sample(f"default/t{number}", reward, token_ids=tokens, **changes)


def pairs(*samples: Sample) -> list[Pair]:
    return pairs_among(map(answer_of, samples))


def test_the_same_prompt_answered_twice_is_a_pair_if_one_was_better() -> None:
    good, bad = an_answer(1, 1.0, 7), an_answer(2, -1.0, 8)
    assert pairs(good, bad) == [Pair(0, 1)]
    assert pairs(bad, good) == [Pair(1, 0)]
    assert pairs(good, an_answer(2, 1.0, 8)) == []
    assert pairs(good, an_answer(2, -1.0, 7)) == [], "the same words are no better than themselves"
    assert pairs(good, bad.model_copy(update={"prompt_token_ids": (1, 3)})) == []
    assert pairs(good, bad.model_copy(update={"agent": "planner"})) == []
    assert pairs(good, bad.model_copy(update={"tenant": "other"})) == []


def test_choices_of_a_call_are_a_pair_where_each_was_judged_by_itself() -> None:
    choices = [
        Choice(index=n, token_ids=(7 + n,), logprobs=(-1.0,), finish_reason="stop") for n in (0, 1)
    ]
    call = a_transition("t1", choices=tuple(choices))
    said = [
        Reward(
            id=f"r{choice}",
            trajectory_id="t1",
            transition_id=call.id,
            choice=choice,
            name="reward",
            source="feedback:human:ann",
            value=value,
        )
        for choice, value in ((0, -1.0), (1, 1.0))
    ]
    record = a_trajectory("t1", 0.0, transitions=(call,), rewards=tuple(said))
    first, second = samples_of(record, a_selection())[0]
    assert pairs(first, second) == [Pair(better=1, worse=0)]


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([-1.0, 0.0, 1.0])), max_size=20))
def test_no_answer_is_in_two_pairs_and_every_pair_is_of_one_prompt(
    said: list[tuple[int, float]],
) -> None:
    samples = [
        an_answer(number, reward, 100 + number, prompt_token_ids=(prompt,))
        for number, (prompt, reward) in enumerate(said)
    ]
    found = pairs(*samples)
    places = [place for pair in found for place in (pair.better, pair.worse)]
    assert len(set(places)) == len(places)
    for pair in found:
        assert pair.better is not None
        better, worse = samples[pair.better], samples[pair.worse]
        assert better.prompt_token_ids == worse.prompt_token_ids
        assert better.reward > worse.reward
    for prompt in range(3):
        worths = {reward for at, reward in said if at == prompt}
        assert (len(worths) > 1) == any(
            samples[pair.worse].prompt_token_ids == (prompt,) for pair in found
        )


def a_vote(**changes: object) -> Feedback:
    fields: dict[str, object] = {
        "id": "f1",
        "identity": "me",
        "trajectory_id": "t1",
        "received_at": 1.0,
        "correction": "better",
    }
    return Feedback.model_validate(fields | changes)


def asked(name: str = "t1", **changes: object) -> Trajectory:
    request = {"messages": [{"role": "user", "content": "hi"}], "tools": [{"type": "function"}]}
    steps = tuple(
        a_transition(name, number=n, request=request, response_id=f"r{n}") for n in range(2)
    )
    return a_trajectory(name, transitions=steps, **changes)


def test_a_correction_is_of_the_call_it_names_or_of_the_last_one() -> None:
    found = corrections_of(asked(), [a_vote()])
    assert found.keys() == {"t1-1/0"}
    assert found["t1-1/0"] == Correction(
        messages=({"role": "user", "content": "hi"},),
        answer={"role": "assistant", "content": "better"},
        tools=({"type": "function"},),
    )
    named = a_vote(trajectory_id=None, response_id="r0")
    assert corrections_of(asked(), [named]).keys() == {"t1-0/0"}
    by_step = a_vote(transition_id="t1-0")
    later = a_vote(id="f2", transition_id="t1-0", received_at=2.0, correction="best")
    both = corrections_of(asked(), [later, by_step])
    assert both["t1-0/0"].answer["content"] == "best", "the last word counts"
    assert not corrections_of(asked(), [a_vote(retracted_at=3.0)])
    assert not corrections_of(asked(), [a_vote(trajectory_id=None, response_id="gone")])


def test_a_correction_that_identifies_somebody_is_left_out() -> None:
    def is_personal(transition: object) -> bool:
        return "better" in str(transition)

    assert not corrections_of(asked(), [a_vote()], is_personal)
    assert corrections_of(asked(), [a_vote(correction="plain")], is_personal)


def test_a_correction_may_be_a_text_a_message_or_several() -> None:
    said = {"role": "assistant", "content": "so"}
    assert answer_in("so") == answer_in(said) == answer_in([said, said]) == said
    call = {"tool_calls": [{"id": "c"}]}
    assert answer_in(call) == {"role": "assistant", "content": "", **call}
    assert answer_in([{"role": "user", "content": "no"}]) is None
    assert answer_in(" ") is answer_in(None) is None


def test_a_round_of_pairs_leaves_what_has_none_for_a_later_round() -> None:
    def answered(name: str, reward: float, prompt: int, token: int) -> Trajectory:
        choice = Choice(token_ids=(token,), logprobs=(-1.0,), finish_reason="stop")
        step = a_transition(name, prompt_token_ids=(prompt,), choices=(choice,))
        return a_trajectory(name, reward, transitions=(step,))

    made = [
        answered("a", 1.0, 1, 7),
        answered("alone", 1.0, 2, 7),
        answered("b", -1.0, 1, 8),
        answered("even", 1.0, 1, 9),
    ]
    selection = a_selection(needs_pairs=True)
    batch = sort_out([(TrajectoryRef("default", t.id), t) for t in made], selection)
    assert batch.refs == ("default/b", "default/even")
    assert batch.left_over == ("default/a", "default/alone")
    assert batch.excluded[Exclusion.UNPAIRED] == batch.left_out[Exclusion.UNPAIRED] == 2
    assert batch.set_aside == ()
    assert [s.token_ids for s in batch.samples] == [(8,), (9,)]
    assert batch.pairs == 1
    (short,) = shortages_of(batch, Demand(2, 2), selection)
    assert str(short) == "1 of 2 preference pairs (trainer.min_per_outcome)"
    require(batch, Demand(1, 0), selection)


def test_corrections_come_with_the_rows_of_a_round_of_pairs(
    store: Store, settings: Settings
) -> None:
    request = {"messages": [{"role": "user", "content": "hi"}]}
    make_trainable(store, 2, request=request)
    vote = a_vote(id="c1", trajectory_id="t0000", identity="other")
    store.add_feedback(vote)
    selection = selection_for(settings, "dpo", 0)
    batch = look(store, settings, selection)
    corrected = [s for s in batch.samples if s.correction is not None]
    assert [s.trajectory for s in corrected] == ["default/t0000"]
    assert corrected[0].correction is not None
    assert corrected[0].correction.answer["content"] == "better"
    again = [Sample.from_json(line) for line in batch.samples.lines()]
    assert again == list(batch.samples)
    plain = look(store, settings, selection_for(settings, "kto", 0))
    assert not any(s.correction for s in plain.samples)
    both = selection_for(settings, "sft+dpo", 0)
    assert (both.needs_pairs, both.with_corrections) == (False, True)
