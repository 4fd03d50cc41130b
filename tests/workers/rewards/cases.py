"""The recorded bodies as trajectories: AIR's own cases, and all the others."""

import json
from pathlib import Path
from typing import Any

from trajectories.model import Choice, Trajectory, Transition
from trajectories.settings import RewardSettings
from workers.rewards.air import AirRules, air_rewards, air_rules
from workers.rewards.signals import SIGNALS

CASES = Path(__file__).parents[2] / "cases"
OWN = sorted((CASES / "air").glob("*.json"))
EVERYTHING = {signal.name: signal.default or -0.1 for signal in SIGNALS}


def rules(**limits: float) -> AirRules:
    """Every signal on, the ones that are off by default too."""
    return air_rules(RewardSettings(air=EVERYTHING, **limits))  # type: ignore[arg-type]


def trajectory_of(transitions: list[dict[str, Any]]) -> Trajectory:
    """A closed trajectory; what a recording left out is filled in."""
    made = [
        Transition.model_validate(
            {
                "id": str(number),
                "trajectory_id": "traj_case",
                "gateway": "g1",
                "started_at": 1000.0 + number,
                "latency_seconds": 0.5,
                "model": "policy",
                **content,
            }
        )
        for number, content in enumerate(transitions)
    ]
    return Trajectory(
        id="traj_case", started_at=0, updated_at=0, is_closed=True, transitions=tuple(made)
    )


def own_case(path: Path) -> tuple[Trajectory, AirRules, list[tuple[int, str]]]:
    """One of AIR's cases: what happened, the rules, and what should fire."""
    case = json.loads(path.read_text())
    expected = [(place, name) for place, name in case["fires"]]
    return trajectory_of(case["transitions"]), rules(**case.get("limits", {})), expected


def continuation(path: Path) -> Trajectory:
    """A conversation recorded for linking: messages and answers, no tools."""
    calls = json.loads(path.read_text())["calls"]
    return trajectory_of(
        [
            {
                "request": {"messages": call["messages"]},
                "agent": call["expect"].get("agent"),
                "choices": [Choice(message=call["answer"], finish_reason="stop")],
            }
            for call in calls
        ]
    )


def single_bodies(content: Any) -> list[dict[str, Any]]:
    """Every request body in a stored case of another folder."""
    if not isinstance(content, dict):
        return []
    if "messages" in content or "input" in content:
        return [content]
    return [body for value in content.values() for body in single_bodies(value)]


def fired(trajectory: Trajectory, own: AirRules) -> list[tuple[int, str]]:
    """(place, signal) of every reward, in order."""
    found = air_rewards(trajectory, own)
    return [(int(str(reward.transition_id)), reward.name) for reward in found]
