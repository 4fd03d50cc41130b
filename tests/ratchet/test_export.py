"""What is exported: each form, from Redis and the archive alike, and what trainers make of it."""

import gzip
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard
from typer.testing import CliRunner

from ratchet import cli
from ratchet.export import Format, export_rows
from ratchet.imports import Defaults, parse
from ratchet.preferences import judged
from ratchet.traffic import when
from tests.trajectories.archive.records import archived, conversation
from tests.workers.records import call, vote
from tests.workers.test_archiver import archive_all, record
from trajectories.archive import Archived, Place
from trajectories.connection import Redis
from trajectories.errors import RatchetError
from trajectories.model import Choice, Reward, Transition
from trajectories.settings import RedisSettings
from trajectories.store import Store, TrajectoryRef

runner = CliRunner()


def rows(form: Format, *records: Archived) -> list[dict[str, Any]]:
    return list(export_rows(lambda: iter(records), form))


def with_steps(steps: list[Transition], **fields: Any) -> Archived:
    made = archived(**fields)
    return Archived(made.trajectory.model_copy(update={"transitions": tuple(steps)}), made.feedback)


def test_a_trajectory_is_one_line_that_chat_tools_read_too() -> None:
    (row,) = rows(Format.TRAJECTORY, archived(turns=3, reward=0.5))
    assert row["reward"] == 0.5
    assert len(row["transitions"]) == 3
    roles = [message["role"] for message in row["messages"]]
    assert roles == ["system", *["user", "assistant"] * 3]
    assert row["tools"][0]["function"]["name"] == "get_weather"
    assert row["feedback"][0]["reward"] == 0.5


def test_a_conversation_is_one_fine_tuning_row_and_only_our_answers_weigh() -> None:
    steps = conversation("traj_a", 3)
    shot = [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "A shot."}]
    steps = [
        step.model_copy(update={"request": {"messages": [*shot, *step.request["messages"]]}})
        for step in steps
    ]
    (row,) = rows(Format.OPENAI, with_steps(steps))
    weights = [entry["weight"] for entry in row["messages"] if entry["role"] == "assistant"]
    assert weights == [0, 1, 1, 1]


def test_two_conversations_of_one_trajectory_are_two_rows() -> None:
    first, second = conversation("traj_a", 1), conversation("other", 1)
    assert len(rows(Format.OPENAI, with_steps([*first, *second]))) == 2


def test_what_only_an_engine_writes_is_left_out_of_chat_rows() -> None:
    (step,) = conversation("traj_a", 1)
    message = {
        "role": "assistant", "content": None, "refusal": None, "reasoning": "hm",
        "tool_calls": [call("get_weather", "{}")],
    }  # fmt: skip
    step = step.model_copy(update={"choices": (Choice(message=message),)})
    (row,) = rows(Format.OPENAI, with_steps([step]))
    answer = row["messages"][-1]
    assert set(answer) == {"role", "tool_calls", "weight"}
    assert set(answer["tool_calls"][0]) == {"id", "type", "function"}


def test_who_opted_out_is_in_no_training_set() -> None:
    steps = [s.model_copy(update={"is_trainable": False}) for s in conversation("traj_a", 1)]
    quiet = with_steps(steps)
    assert rows(Format.OPENAI, quiet) == rows(Format.PREFERENCE, quiet) == []
    assert len(rows(Format.TRAJECTORY, quiet)) == 1


@pytest.mark.parametrize(
    "correction",
    ["Better.", {"content": "Better."}, [{"role": "assistant", "content": "Better."}]],
)
def test_a_correction_is_a_pair_and_a_fine_tuning_row(correction: Any) -> None:
    told = vote(None, response="chatcmpl-traj_a-0").model_copy(update={"correction": correction})
    made = archived(turns=2, votes=(told,))
    (pair,) = rows(Format.PREFERENCE, made)
    better = {"role": "assistant", "content": "Better."}
    assert pair["chosen"] == [better]
    assert pair["rejected"] == [{"role": "assistant", "content": "Antwort 0"}]
    assert pair["prompt"][-1]["content"].startswith("Frage 0")
    assert rows(Format.OPENAI, made)[-1]["messages"][-1] == better | {"weight": 1}


def test_one_prompt_with_different_rewards_is_a_pair_of_the_best_and_the_worst() -> None:
    def answered(name: str, text: str, reward: float) -> Archived:
        (step,) = conversation("same", 1)
        message = {"role": "assistant", "content": text}
        step = step.model_copy(update={"id": name, "choices": (Choice(message=message),)})
        return with_steps([step], name=name, reward=reward)

    found = rows(
        Format.PREFERENCE,
        answered("a", "so-so", 0.1), answered("b", "bad", -1.0), answered("c", "good", 0.8),
        archived("alone", reward=1.0),
    )  # fmt: skip
    assert [(p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in found] == [
        ("good", "bad")
    ]
    assert rows(Format.PREFERENCE, answered("a", "x", 0.5), answered("b", "y", 0.5)) == []


def test_regenerated_answers_are_judged_by_their_own_votes() -> None:
    first, second = conversation("traj_a", 1)[0], conversation("traj_a", 1)[0]
    second = second.model_copy(
        update={"id": "tr_2", "choices": (Choice(message={"role": "assistant", "content": "B"}),)}
    )
    made = with_steps([first, second], reward=None)
    votes = tuple(
        Reward(id=name, trajectory_id="traj_a", transition_id=step.id, name="reward",
               source="feedback:human", value=value)
        for name, step, value in (("r1", first, -1.0), ("r2", second, 1.0))
    )  # fmt: skip
    made = Archived(made.trajectory.model_copy(update={"rewards": votes}))
    (pair,) = rows(Format.PREFERENCE, made)
    assert pair["chosen"][0]["content"] == "B"


def test_trl_and_datasets_read_what_is_written(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    trl = pytest.importorskip("trl.data_utils")
    told = vote(None, response="chatcmpl-traj_a-1").model_copy(update={"correction": "Better."})
    made = archived(turns=2, votes=(told,))
    for form, columns in ((Format.OPENAI, {"messages"}),
                          (Format.PREFERENCE, {"prompt", "chosen", "rejected"})):  # fmt: skip
        path = tmp_path / f"{form}.jsonl"
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows(form, made)))
        found = datasets.load_dataset(
            "json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
        )
        assert columns <= set(found.column_names)
        assert trl.is_conversational(found[0])
        assert found[0].get("chosen", [{"content": "Better."}])[0]["content"] == "Better."


@pytest.fixture
def installation(
    redis: Redis, redis_settings: RedisSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Redis:
    """One trajectory in the archive only, one in both, one in Redis only."""
    monkeypatch.setenv("RATCHET_REDIS_URL", redis_settings.url)
    monkeypatch.setenv("RATCHET_DATA_DIR", str(tmp_path / "data"))
    store = record(redis, "traj_cold")
    record(redis, "traj_both")
    archive_all(redis, Place(str(tmp_path / "data" / "archive")))
    for key in redis.scan_iter("*traj_cold*"):
        redis.delete(key)
    store.add_feedback(vote(0.5, trajectory="traj_both"))
    record(redis, "traj_both")
    record(redis, "traj_hot")
    return redis


def exported(*arguments: str) -> list[dict[str, Any]]:
    result = runner.invoke(cli.app, ["export", *arguments])
    assert result.exit_code == 0, result.output
    return [orjson.loads(line) for line in result.stdout_bytes.splitlines() if line[:1] == b"{"]


def test_hot_and_cold_are_exported_each_once_and_the_newer_of_both(installation: Redis) -> None:
    found = {row["trajectory_id"]: row for row in exported("--format", "trajectory")}
    assert sorted(found) == ["traj_both", "traj_cold", "traj_hot"]
    assert found["traj_both"]["reward"] == 0.5
    only = [row["trajectory_id"] for row in exported("--format", "trajectory", "--min-reward", "0")]
    assert only == ["traj_both"]
    assert len(exported()) == 6, "transitions, as ever"


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_file_is_packed_by_its_name(installation: Redis, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"out.jsonl{suffix}"
    exported(str(target), "--labelled")
    unpack = {"": bytes, ".gz": gzip.decompress}.get(
        suffix, lambda raw: zstandard.ZstdDecompressor().decompressobj().decompress(raw)
    )
    assert len(unpack(target.read_bytes()).splitlines()) == 2
    assert not list(tmp_path.glob(".*part"))


def test_what_identifies_people_does_not_leave_the_house(installation: Redis) -> None:
    told = vote(1.0, trajectory="traj_hot").model_copy(update={"comment": "jo.doe@example.org"})
    Store(installation).add_feedback(told)
    (row,) = [
        row for row in exported("--format", "trajectory") if row["trajectory_id"] == "traj_hot"
    ]
    assert [entry["comment"] for entry in row["feedback"]] == ["<EMAIL_1>"]


def test_times_are_dates_iso_times_and_ages() -> None:
    assert when("7d", 1e6) == 1e6 - 7 * 86_400
    assert when("1970-01-02T00:00:00+00:00", 0) == 86_400
    assert when(None, 0) is None
    with pytest.raises(RatchetError, match="soon is no time"):
        when("soon", 0)


def test_the_same_prompt_of_two_tenants_makes_no_pair() -> None:
    (step,) = conversation("same", 1)
    theirs = archived(tenant="acme", reward=-1.0)
    ours = with_steps([step], reward=1.0)
    other = Archived(
        theirs.trajectory.model_copy(
            update={"transitions": (step.model_copy(update={"id": "x", "tenant": "acme"}),)}
        )
    )
    assert rows(Format.PREFERENCE, ours, other) == []
    assert TrajectoryRef("acme", "traj_a") == other.ref


def of_choice(step: Transition, value: float, choice: int | None = None) -> Reward:
    return Reward(
        id=f"r-{step.id}-{choice}",
        trajectory_id="traj_a",
        transition_id=step.id,
        choice=choice,
        name="reward",
        source="feedback:human",
        value=value,
    )


def with_choices(step: Transition) -> Transition:
    """Of two choices the second is what the next call goes on with."""
    other = Choice(index=0, message={"role": "assistant", "content": "another"}, token_ids=(5,))
    taken = step.choices[0].model_copy(update={"index": 1})
    return step.model_copy(update={"choices": (other, taken)})


def test_each_choice_is_worth_what_was_said_of_it() -> None:
    (step,) = conversation("traj_a", 1)
    step = with_choices(step)
    made = with_steps([step], reward=0.5)
    rewards = (of_choice(step, -1.0, 0), of_choice(step, 1.0, 1))
    made = Archived(made.trajectory.model_copy(update={"rewards": rewards}))
    (pair,) = rows(Format.PREFERENCE, made)
    assert pair["chosen"] == [{"role": "assistant", "content": "Antwort 0"}]
    assert pair["rejected"] == [{"role": "assistant", "content": "another"}]
    (row,) = rows(Format.TRANSITIONS, made)
    assert [(entry["choice"], entry["value"]) for entry in row["rewards"]] == [(0, -1), (1, 1)]
    # Nobody knows which of them was taken.
    assert rows(Format.OPENAI, made) == []
    alone = Archived(made.trajectory.model_copy(update={"rewards": ()}))
    assert list(judged(alone)) == []


def test_the_choice_that_was_gone_on_with_has_the_votes_on_its_call() -> None:
    first, last = conversation("traj_a", 2)
    first = with_choices(first)
    made = with_steps([first, last], reward=0.5)
    told = vote(None, response="chatcmpl-traj_a-0").model_copy(update={"correction": "Better."})
    other = told.model_copy(update={"id": "fb_other", "choice": 0})
    rewards = (of_choice(first, 1.0),)
    made = Archived(made.trajectory.model_copy(update={"rewards": rewards}), (told, other))
    found = [(entry.answer["content"], entry.reward) for entry in judged(made)]
    assert found == [("Antwort 0", 1.0), ("Antwort 1", 0.5)]
    pairs = rows(Format.PREFERENCE, made)
    assert [pair["rejected"][0]["content"] for pair in pairs] == ["Antwort 0", "another"]
    weights = [
        (entry["content"], entry["weight"])
        for entry in rows(Format.OPENAI, made)[0]["messages"]
        if entry["role"] == "assistant"
    ]
    assert weights == [("Antwort 0", 1), ("Antwort 1", 1)]


def test_a_sibling_is_no_users_traffic_in_any_form() -> None:
    (step,) = conversation("traj_a", 1)
    answer = Choice(message={"role": "assistant", "content": "anew"})
    anew = step.model_copy(update={"id": "tr_r", "rollout": step.id, "choices": (answer,)})
    of_users, rolled = with_steps([step], reward=-1.0), with_steps([anew], name="r", reward=1.0)
    rolled = Archived(rolled.trajectory.model_copy(update={"rollout": step.id}))
    assert [row["rollout"] for row in rows(Format.TRANSITIONS, of_users, rolled)] == [None, step.id]
    assert rows(Format.OPENAI, of_users, rolled) == rows(Format.OPENAI, of_users)
    (pair,) = rows(Format.PREFERENCE, of_users, rolled)
    assert pair["rollout"] == step.id
    (row,) = rows(Format.TRANSITIONS, rolled)
    found = parse(orjson.dumps(row), Defaults("default", None, None, 0.0))
    assert [step.rollout for step in found.transitions] == [step.id]
