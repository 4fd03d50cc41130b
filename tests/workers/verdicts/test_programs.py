"""Webhooks and custom rewards: signed, limited, and set aside when they fail."""

import base64
import hashlib
import hmac
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.answering import Answer, AnsweringServer, Asked
from tests.workers.verdicts.conftest import REF, Court
from trajectories import keys
from trajectories.errors import SettingsError
from trajectories.settings import CustomSettings
from workers.verdicts import custom as custom_module
from workers.verdicts.custom import Custom
from workers.verdicts.opinions import NoVerdict

Serve = Callable[[Answer], AnsweringServer]
Build = Callable[..., Court]
SECRET = "whsec_" + base64.b64encode(b"a key of our own").decode()


def hook(server: AnsweringServer, **more: Any) -> dict[str, Any]:
    return {"ci": {"url": f"{server.url}/reward?a=1", "secret": SECRET, **more}}


def test_a_webhook_is_sent_the_trajectory_and_its_rewards_are_votes(
    court: Build, serve: Serve
) -> None:
    def answer(asked: Asked) -> Any:
        first = asked.body["data"]["transitions"][0]["id"]
        return {
            "rewards": [
                {"name": "tests", "value": 1, "reason": "41 of 41"},
                {"value": -0.5, "transition_id": first},
            ]
        }

    server = serve(answer)
    here = court(webhooks=hook(server))
    here.hear()
    here.decide()
    assert here.rewards() == {
        ("feedback:code:ci", None): 1.0,
        ("feedback:code:ci", "tr_traj_a_0"): -0.5,
    }
    assert here.reward() == 1.0
    asked = server.asked[0]
    assert asked.path == "/reward?a=1"
    assert asked.body["type"] == "trajectory.closed"
    data = asked.body["data"]
    assert data["id"] == "traj_a"
    assert data["transitions"][0]["choices"][0]["message"]["content"] == "Sunny."
    assert "token_ids" not in data["transitions"][0]["choices"][0]


def verify(asked: Asked, key: bytes) -> bool:
    """What docs/rewards.md tells a receiver to do."""
    signed = f"{asked.headers['webhook-id']}.{asked.headers['webhook-timestamp']}.".encode()
    digest = hmac.digest(key, signed + asked.raw, hashlib.sha256)
    wanted = "v1," + base64.b64encode(digest).decode()
    is_fresh = abs(time.time() - int(asked.headers["webhook-timestamp"])) < 300
    return is_fresh and hmac.compare_digest(wanted, asked.headers["webhook-signature"])


@pytest.mark.parametrize(
    ("secret", "key"), [(SECRET, b"a key of our own"), ("plain text", b"plain text")]
)
def test_a_receiver_can_verify_the_call_and_tell_a_repetition(
    court: Build, serve: Serve, secret: str, key: bytes
) -> None:
    replies = iter([(503, {}), {"rewards": []}])
    server = serve(lambda asked: next(replies))
    here = court(webhooks=hook(server, secret=secret))
    here.hear()
    here.decide()
    here.decide()
    assert [verify(asked, key) for asked in server.asked] == [True, True]
    assert not verify(server.asked[0], b"another key")
    tampered = Asked("/", server.asked[0].headers, server.asked[0].raw + b" ")
    assert not verify(tampered, key)
    ids = {asked.headers["webhook-id"] for asked in server.asked}
    assert len(ids) == 1
    assert here.state("ci") == ("abstained", "")


HOOK_FAILURES: dict[str, tuple[Any, str]] = {
    "500": ((500, {}), "status"),
    "a redirect to elsewhere": ((302, {}), "status"),
    "no JSON": (b"ok", "garbage"),
    "a bare number": (b"1", "garbage"),
    "no rewards": ({"reward": 1}, "garbage"),
    "rewards that are no list": ({"rewards": {"a": 1}}, "garbage"),
    "a number in the list": ({"rewards": [1]}, "garbage"),
    "no value": ({"rewards": [{"name": "a"}]}, "garbage"),
    "a text for a value": ({"rewards": [{"value": "1"}]}, "garbage"),
    "a bool for a value": ({"rewards": [{"value": True}]}, "garbage"),
    "a name of another kind": ({"rewards": [{"name": "a b", "value": 1}]}, "garbage"),
    "a field that nobody knows": ({"rewards": [{"value": 1, "worth": 1}]}, "garbage"),
    "a stranger's transition": ({"rewards": [{"value": 1, "transition_id": "tr_x"}]}, "garbage"),
    "one thing said twice": ({"rewards": [{"value": 1}, {"value": 0}]}, "garbage"),
    "too many": ({"rewards": [{"name": f"n{n}", "value": 1} for n in range(300)]}, "garbage"),
    "one wrong among good ones": (
        {"rewards": [{"name": "a", "value": 1}, {"name": "b", "value": 2}]},
        "out_of_range",
    ),
    "NaN": (b'{"rewards": [{"value": NaN}]}', "out_of_range"),
    "infinity": (b'{"rewards": [{"value": -Infinity}]}', "out_of_range"),
    "1e308": (b'{"rewards": [{"value": 1e308}]}', "out_of_range"),
    "a hang": ("hang", "timeout"),
    "a byte now and then": ("drip", "timeout"),
    "an endless body": ("endless", "garbage"),
    "a closed connection": ("close", "unreachable"),
}


@pytest.mark.parametrize("failure", HOOK_FAILURES)
def test_a_webhook_that_fails_gives_no_reward_rather_than_zero(
    court: Build, serve: Serve, failure: str
) -> None:
    said, reason = HOOK_FAILURES[failure]
    server = serve(lambda asked: said)
    here = court(webhooks=hook(server, timeout_seconds=0.4, attempts=1))
    here.hear()
    here.decide()
    assert here.state("ci") == ("failed", reason)
    assert here.rewards() == {}
    assert here.reward() is None
    assert here.counts("ci") == {f"failed:{reason}": 1}
    assert here.redis.xlen(keys.QUARANTINE) == 1


def test_a_secret_that_is_not_there_is_said(court: Build) -> None:
    with pytest.raises(SettingsError, match=r"webhooks\.ci: the variable CI_SECRET"):
        court(webhooks={"ci": {"url": "http://127.0.0.1:9", "secret_env": "CI_SECRET"}})


def test_a_secret_and_a_key_may_stand_in_the_environment(
    court: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI_SECRET", "from the environment")
    monkeypatch.setenv("JUDGE_KEY", "sk-from-the-environment")
    here = court(
        webhooks={"ci": {"url": "http://127.0.0.1:9", "secret_env": "CI_SECRET"}},
        judges={"j": {"model": "m", "url": "http://127.0.0.1:9", "api_key_env": "JUDGE_KEY"}},
    )
    assert here.settings.webhooks["ci"].secret == "from the environment"
    assert here.panel.oracles["j"]._key == "sk-from-the-environment"
    with pytest.raises(SettingsError, match="NO_KEY"):
        court(judges={"j": {"model": "m", "api_key_env": "NO_KEY"}})
    with pytest.raises(SettingsError, match="rubric_file"):
        court(judges={"j": {"model": "m", "rubric_file": "/nowhere.txt"}})


# What an installed package with custom rewards looks like, as pip leaves it.
CODE = """
import os
import re
import sys
import time


def length(trajectory):
    return min(1.0, len(trajectory.transitions) / 4)


def named(trajectory):
    return {"short": 1, "polite": -0.25}


def each(trajectory):
    print("this must not come between", flush=True)
    return [{"value": 0.5, "transition_id": t.id, "reason": "so"} for t in trajectory.transitions]


def nothing(trajectory):
    return None


def raises(trajectory):
    raise ZeroDivisionError("oh")


def loops(trajectory):
    while True:
        pass


def hangs_in_c(trajectory):
    re.match(r"(a+)+$", "a" * 64 + "b")  # holds the interpreter: no alarm gets through


def sleeps(trajectory):
    time.sleep(60)


def exits(trajectory):
    sys.exit(3)


def aborts(trajectory):
    os.abort()


def nan(trajectory):
    return float("nan")


def infinite(trajectory):
    return float("-inf")


def huge(trajectory):
    return 1e308


def text(trajectory):
    return "0.5"


def yes(trajectory):
    return True


def thing(trajectory):
    return object()


def floods(trajectory):
    return "x" * 3_000_000


def secrets(trajectory):
    return {name: 1 for name in os.environ if name.startswith(("RATCHET_", "REDIS_URL"))} or 0.25


def dies_once(trajectory):
    mark = os.path.join(os.path.dirname(__file__), "mark")
    if not os.path.exists(mark):
        open(mark, "w").close()
        time.sleep(60)
    return 1.0
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package on the path with the functions of CODE as entry points, and one that is broken."""
    names = [line[4:].partition("(")[0] for line in CODE.splitlines() if line.startswith("def ")]
    site = tmp_path / "site"
    about = site / "our_rewards-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "our_rewards.py").write_text(CODE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: our-rewards\nVersion: 1.0\n")
    lines = [f"{name} = our_rewards:{name}" for name in names]
    lines += ["broken = our_rewards_that_are_not_there:x"]
    (about / "entry_points.txt").write_text("[ratchet.rewards]\n" + "\n".join(lines) + "\n")
    root = Path(__file__).parents[3]
    monkeypatch.setenv("PYTHONPATH", f"{root}:{site}")
    return site


@pytest.mark.usefixtures("package")
def test_a_function_may_give_a_number_names_a_list_or_nothing(
    court: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RATCHET_DATA_DIR", "/secret")
    monkeypatch.setenv("REDIS_URL", "redis://:secret@127.0.0.1")
    here = court(
        custom={
            "length": {},
            "named": {},
            "other-name": {"entry_point": "each"},
            "nothing": {},
            "secrets": {},
        }
    )
    here.hear()
    here.decide()
    found = here.store.trajectory(REF)
    assert found is not None
    assert sorted(
        (reward.source.rpartition(":")[2], reward.name, reward.transition_id or "", reward.value)
        for reward in found.rewards
    ) == [
        ("length", "length", "", 0.5),
        ("named", "polite", "", -0.25),
        ("named", "short", "", 1.0),
        ("other-name", "other-name", "tr_traj_a_0", 0.5),
        ("other-name", "other-name", "tr_traj_a_1", 0.5),
        ("secrets", "secrets", "", 0.25),
    ]
    assert here.state("nothing") == ("abstained", "")


CUSTOM_FAILURES = {
    "raises": ("error", "ZeroDivisionError: oh (", 5.0),
    "loops": ("timeout", "did not end within 1 s", 1.0),
    "hangs_in_c": ("timeout", "did not end within 1 s", 1.0),
    "sleeps": ("timeout", "did not end within 1 s", 1.0),
    "exits": ("error", "ended with 3", 5.0),
    "aborts": ("error", "ended with -6", 5.0),
    "nan": ("out_of_range", "nan", 5.0),
    "infinite": ("out_of_range", "-inf", 5.0),
    "huge": ("out_of_range", "1e+308", 5.0),
    "text": ("garbage", "a str is no reward", 5.0),
    "yes": ("garbage", "a bool is no reward", 5.0),
    "thing": ("error", "a object is no reward", 5.0),
    "floods": ("garbage", "longer than 1 MB", 5.0),
    "broken": ("error", "ModuleNotFoundError", 5.0),
    "missing": ("error", "no entry point 'missing'", 5.0),
}


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("failure", CUSTOM_FAILURES)
def test_a_function_that_fails_gives_no_reward_rather_than_zero(court: Build, failure: str) -> None:
    reason, detail, seconds = CUSTOM_FAILURES[failure]
    here = court(custom={failure: {"attempts": 1, "timeout_seconds": seconds}})
    here.hear()
    here.decide()
    assert here.state(failure) == ("failed", reason)
    assert here.rewards() == {}
    assert here.reward() is None
    aside = here.redis.xrange(keys.QUARANTINE)
    assert detail in aside[0][1][b"reason"].decode()


@pytest.mark.usefixtures("package")
def test_after_a_hang_the_next_trajectory_gets_a_fresh_process(court: Build) -> None:
    here = court(custom={"dies_once": {"attempts": 1, "timeout_seconds": 1.0}})
    first = here.hear("traj_1")
    here.decide()
    second = here.hear("traj_2")
    here.decide()
    assert [here.reward(ref) for ref in (first, second)] == [None, 1.0]


@pytest.mark.usefixtures("package")
def test_one_process_serves_many_trajectories(
    court: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = court(custom={"length": {}})
    for number in range(3):
        here.hear(f"traj_{number}")
    here.decide()
    process = here.panel.customs["length"]._process
    assert process is not None
    assert process.poll() is None
    here.panel.close()
    assert process.returncode is not None


@pytest.mark.usefixtures("package")
def test_a_function_whose_import_hangs_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom_module, "START_SECONDS", 0.01)
    slow = Custom("length", CustomSettings())
    with pytest.raises(NoVerdict, match="timeout"):
        slow._asked(b"{}")
    assert slow._process is None
