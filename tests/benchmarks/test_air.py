"""The ablation's world: sessions are held as the demo's agent holds them, and make a table."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from ratchet.demo.demonstrations import Mode, say, write_call
from ratchet.demo.questions import Kind, draw_question
from trajectories.model import Choice
from trajectories.settings import RewardSettings
from trajectories.store import Scorable
from workers.jobs import Scorer

pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")  # the training stack's own

air = pytest.importorskip("benchmarks.air")
sampling = pytest.importorskip("benchmarks.air_bench.sampling")
sessions = pytest.importorskip("benchmarks.air_bench.sessions")

QUESTION = draw_question(random.Random(1), Kind.ADD)
CALL = write_call("calculator", QUESTION.calculation)


class Scripted:
    """Answers from a list, one for all conversations at once."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)

    def answer(self, conversations: list[Any]) -> list[Any]:
        text = self.texts.pop(0)
        choice = Choice(message=sampling.read(text), finish_reason="stop")
        return [sampling.Sampled((1,), choice) for _ in conversations]


def held(*texts: str) -> Any:
    [session] = sessions.hold(Scripted(*texts), iter([QUESTION]), 1, version=0, prefix="s")
    return session


def fired(session: Any) -> list[str]:
    scorer = Scorer.from_settings(RewardSettings())
    rewards, _ = scorer.compute(Scorable(session.trajectory(), (), 1))
    return [reward.name for reward in rewards]


def test_a_session_calls_the_tool_and_answers() -> None:
    session = held(CALL, say(QUESTION.answer))
    assert (session.is_right, session.has_valid_first_call) == (True, True)
    assert len(session.transitions) == 2
    assert fired(session) == []


@pytest.mark.parametrize(
    ("text", "signals"),
    [
        (CALL.replace("calculator", "compute"), ["unknown_tool"]),
        (CALL.replace("add", "plus"), ["tool_arguments_invalid"]),
    ],
)
def test_a_call_that_does_not_fit_is_no_valid_first_call(text: str, signals: list[str]) -> None:
    session = held(text, "Sorry, I cannot work that out.")
    assert not session.has_valid_first_call
    assert fired(session) == signals


def test_a_call_that_cannot_be_read_stays_text_as_vllms_parser_leaves_it() -> None:
    session = held(CALL.replace('"arguments": {', '"arguments": '))
    assert not session.first_calls
    assert fired(session) == ["tool_call_unparsable"]


def test_a_guess_is_no_fault_to_air() -> None:
    assert Mode.GUESS
    assert fired(held(say(QUESTION.answer + 1))) == []


def test_the_table_has_the_mean_and_the_range_of_each_arm(tmp_path: Path) -> None:
    first = {"accuracy": 0.4, "valid_first_calls": 0.8, "calls_per_session": 1.8}
    for seed, accuracy in ((1, 0.8), (2, 0.9)):
        last = {**first, "accuracy": accuracy}
        content = {
            "arm": "votes",
            "seed": seed,
            "share": 0.1,
            "rewarded": [70, 80],
            "held_out": [first, last],
        }
        air.path_of(tmp_path, "votes", seed, 0.1).write_text(json.dumps(content))
    cells = [cell.strip() for cell in air.table(tmp_path).splitlines()[2].split("|")]
    assert cells[1:5] == ["10%", "votes", "2", "150"]
    assert cells[5] == "0.400, 0.850, 0.850 (0.800 to 0.900)"
