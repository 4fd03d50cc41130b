"""`ratchet keys`: what a person types, and what they read back."""

import re
import time
from typing import Any

import pytest
from typer.testing import CliRunner

from ratchet import access, cli
from trajectories import keys
from trajectories.access import Batch, KeyRecord, KeyStore, Usage, digest_of
from trajectories.connection import Redis
from trajectories.errors import RatchetError
from trajectories.settings import RedisSettings

runner = CliRunner(env={"COLUMNS": "200"})


@pytest.fixture(autouse=True)
def _use_the_server(redis_settings: RedisSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_REDIS_URL", redis_settings.url)
    monkeypatch.setattr(access.out, "_width", 200)


def ratchet(*words: str) -> Any:
    return runner.invoke(cli.app, ["keys", *words])


def create(*words: str) -> str:
    """A key made with these options; the key."""
    result = ratchet("create", "--name", "app", *words)
    assert result.exit_code == 0, result.output
    (key,) = re.findall(r"^OPENAI_API_KEY=(rk_[A-Za-z0-9_-]{43})$", result.output, re.MULTILINE)
    return str(key)


def stored(redis: Redis) -> KeyRecord:
    (record,), _ = KeyStore(redis).records()
    return record


def test_a_key_is_shown_once_with_how_to_use_it(redis: Redis) -> None:
    key = create("--scope", "inference", "--scope", "feedback")
    record = stored(redis)
    assert record.digest == digest_of(key)
    assert (record.tenant, record.scopes) == ("default", {"inference", "feedback"})
    shown = ratchet("list").output
    assert record.id in shown
    assert key not in shown
    assert record.digest not in shown


def test_every_option_reaches_the_record(redis: Redis) -> None:
    create(
        *("--tenant", "acme", "--scope", "read"),
        *("--requests-per-minute", "60", "--tokens-per-minute", "1000", "--token-budget", "5000"),
        *("--model", "policy", "--model", "gpt-5", "--no-train", "--expires-days", "30"),
    )
    record = stored(redis)
    assert record.tenant == "acme"
    assert (record.requests_per_minute, record.tokens_per_minute) == (60, 1000)
    assert record.token_budget == 5000
    assert record.models == {"policy", "gpt-5"}
    assert (record.is_trainable, record.is_recorded) == (False, True)
    assert record.expires_at is not None
    assert record.expires_at - record.created_at == 30 * keys.DAY


def test_what_is_not_recorded_is_not_trained_on_either(redis: Redis) -> None:
    create("--scope", "inference", "--no-record")
    assert (stored(redis).is_trainable, stored(redis).is_recorded) == (False, False)


def test_the_list_shows_limits_use_and_state(redis: Redis) -> None:
    create("--scope", "inference", "--token-budget", "5000", "--expires-days", "1")
    record = stored(redis)
    KeyStore(redis).exchange(
        Batch("proc_1", 1, {record.id: Usage(3, 1234)}), followed=[], revision=None
    )
    shown = ratchet("list").output
    for part in ("5,000 tokens in all", "1,234", "good until"):
        assert part in shown
    assert ratchet("revoke", record.id).exit_code == 0
    assert "revoked" in ratchet("list").output
    assert stored(redis).revoked_at == pytest.approx(time.time(), abs=60)


def test_a_name_cannot_paint_the_terminal(redis: Redis) -> None:
    result = ratchet("create", "--name", "[red]x[/nonsense]", "--scope", "read")
    assert result.exit_code == 0, result.output
    assert "[red]x[/nonsense]" in result.output
    assert "[red]x[/nonsense]" in ratchet("list").output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["create", "--name", "a", "--scope", "root"], "root"),
        (["create", "--name", "a", "--scope", "read", "--tenant", "A:b"], "tenant"),
        (["revoke", "key_unknown"], "key_unknown"),
    ],
)
def test_a_slip_is_answered_with_what_is_wrong(
    redis: Redis, words: list[str], message: str
) -> None:
    result = ratchet(*words)
    assert isinstance(result.exception, RatchetError)
    assert message in str(result.exception)
    assert KeyStore(redis).records() == ([], [])


def test_whether_the_gateway_asks_for_keys_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("create", "--name", "a", "--scope", "read")
    assert "require_keys" in ratchet(*words).output
    monkeypatch.setenv("RATCHET_GATEWAY_REQUIRE_KEYS", "true")
    assert "require_keys" not in ratchet(*words).output
