"""Judges and siblings: all of them are judged, and compared with the recorded answer alone."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.fakes.answering import Answer, AnsweringServer, Asked
from tests.workers.records import transition
from tests.workers.verdicts.conftest import Court
from tests.workers.verdicts.test_judges import completion, judge
from trajectories.rollouts import Rollout
from trajectories.store import TrajectoryRef

Build = Callable[..., Court]
Serve = Callable[[Answer], AnsweringServer]


def rank(asked: Asked) -> Any:
    material = asked.body["messages"][1]["content"]
    numbers = range(1, material.count("END ") + 1)
    return completion(
        {"scores": [{"trajectory": n, "reason": "", "score": 2 * n} for n in numbers]}
    )


def roll_out(here: Court, of: str, number: int) -> TrajectoryRef:
    ref = TrajectoryRef("default", Rollout("default", of, number).trajectory_id)
    made = transition(trajectory=ref.id, content=f"Answer {number}.")
    here.store.add_transition(made.model_copy(update={"rollout": of}))
    here.store.close(ref)
    here.scorer.score(here.store, ref)
    return ref


@pytest.mark.parametrize("share", [1.0, 0.0])
def test_a_relative_judge_compares_an_answer_with_its_siblings_and_no_others(
    court: Build, serve: Serve, share: float
) -> None:
    server = serve(rank)
    judges = judge(server, kind="relative", group_size=8, share=share)
    here = court(judges=judges, siblings={"enabled": True, "answers": 2})
    original = here.hear("traj_a")
    other = here.hear("traj_b")  # of the same first prompt, in the same words
    rolled = [roll_out(here, "tr_traj_a_1", number) for number in range(2)]
    here.decide()
    assert len(server.asked) == 1
    material = server.asked[0].body["messages"][1]["content"]
    assert material.count("END ") == 3
    assert all(here.reward(ref) is not None for ref in rolled)  # whatever the judge's share
    assert (here.reward(original) is not None) is (share == 1.0)
    assert here.reward(other) is None
    # What a judge is calibrated on: people say nothing of siblings.
    judged = here.store.judged_trajectories("helpful", "default")
    assert judged == ([original] if share == 1.0 else [])


def test_siblings_without_the_recorded_answer_are_compared_among_themselves(
    court: Build, serve: Serve
) -> None:
    server = serve(rank)
    here = court(judges=judge(server, kind="relative"), siblings={"enabled": True, "answers": 2})
    rolled = [roll_out(here, "tr_gone", number) for number in range(2)]
    here.decide()
    assert sorted(here.reward(ref) or 0.0 for ref in rolled) == pytest.approx([-0.6, -0.2])


def test_a_judge_that_fails_leaves_siblings_without_a_reward(court: Build, serve: Serve) -> None:
    server = serve(lambda _: (500, {}))
    here = court(judges=judge(server, attempts=1), siblings={"enabled": True})
    ref = roll_out(here, "tr_x", 0)
    here.decide()
    assert here.reward(ref) is None
    assert here.store.trainable("policy", 10) == []
