"""One run of an example: a model raised, the whole loop started, rounds of traffic and learning.

Traffic pauses while a version is trained, so that a run means the same on a slow machine as on
a quick one. Everything else is as in production: an agent that knows a base URL, the gateway, vLLM,
the workers, and the trainer as `python -m trainer --once`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from examples.arena.agents import AgentProcess, python_of
from examples.arena.results import Result, Version
from examples.arena.settings import load, override, parse_overrides, sections
from examples.arena.traffic import Traffic, measure
from examples.arena.world import World, agent_script
from ratchet.demo.world import empty, forget_environment, require_vllm
from ratchet.processes import die_with_parent, file_sink
from ratchet.redis_server import environment_of
from ratchet.up import Loop
from trajectories import keys
from trajectories.connection import connect
from trajectories.errors import RatchetError
from trajectories.registry import Registry
from trajectories.settings import Settings
from trajectories.store import Store

LACKING = 3  # exit status of a round that had too little to learn from
SETTLE_SECONDS = 300.0  # longest wait for the rewards of a round's last session
SUPERVISE_SECONDS = 0.3


def run(
    world: World,
    seed: int,
    *,
    variant: str,
    is_shuffled: bool,
    rounds: int,
    sessions: int,
    held_out: int,
    overrides: Sequence[str],
    directory: Path,
    models: Path,
) -> Result:
    """The whole run. Raises SettingsError where it cannot run, RatchetError where it broke off."""
    require_vllm()
    python_of(world.environment)
    directory = empty(directory)
    forget_environment()
    result = Result(world.name, world.framework, variant, seed, held_out)
    result.overrides = list(overrides)
    started = time.monotonic()
    model = raise_model(world, seed, models)
    result.upbringing_seconds = round(time.monotonic() - started, 1)
    started = time.monotonic()
    base = sections(world.name, directory, model, seed=seed, is_shuffled=is_shuffled)
    wanted = override(override(base, world.settings), parse_overrides(overrides))
    settings = load(wanted, directory / "ratchet.toml")
    loop = Loop(settings, file_sink(directory / "loop.log"), with_trainer=False)
    try:
        loop.start()
        asyncio.run(_Run(world, settings, loop, result, directory).hold(rounds, sessions))
    except* RuntimeError as group:
        raise RatchetError(f"the run broke off: {group.exceptions[0]} (see {directory})") from group
    finally:
        loop.stop()
    result.seconds = round(time.monotonic() - started, 1)
    return result


def raise_model(world: World, seed: int, models: Path) -> Path:
    """The world's model of that seed, made where it is not there yet."""
    model = models.resolve() / f"{world.name}-{seed}"
    if not (model / "config.json").exists():
        partial = model.with_name(model.name + ".partial")
        command = [sys.executable, "-m", "examples.arena.upbringing", world.name, str(partial)]
        subprocess.run([*command, "--seed", str(seed)], check=True, preexec_fn=die_with_parent)
        shutil.rmtree(model, ignore_errors=True)
        partial.rename(model)
    return model


class _Run:
    """The part of a run that happens while the servers are up."""

    def __init__(
        self, world: World, settings: Settings, loop: Loop, result: Result, directory: Path
    ) -> None:
        assert loop.redis is not None
        self._world = world
        self._settings = settings
        self._loop = loop
        self._result = result
        self._directory = directory
        self._redis = connect(loop.redis.settings)
        self._store = Store(self._redis)
        base = settings.upstream.base_model
        self._registry = Registry(self._redis, settings.policy, base)

    async def hold(self, rounds: int, sessions: int) -> None:
        """Measure the base, then rounds: traffic, learning, measuring."""
        stop = threading.Event()
        watch = asyncio.create_task(asyncio.to_thread(self._supervise, stop))
        world, result = self._world, self._result
        python, log = python_of(world.environment), self._directory / "agent.log"
        try:
            async with AgentProcess(python, agent_script(world), log) as agent:
                url = f"http://127.0.0.1:{self._settings.gateway.port}"
                traffic = Traffic(world, agent, url, result.seed)
                await self._measure(agent, traffic, 0)
                for _ in range(rounds):
                    await traffic.run(sessions)
                    await asyncio.to_thread(self._settle)
                    trained = await asyncio.to_thread(self._learn)
                    await self._measure(agent, traffic, trained)
            self._account(traffic)
        finally:
            stop.set()
            await watch
            self._redis.close()

    async def _measure(self, agent: AgentProcess, traffic: Traffic, trained: int) -> None:
        """Ask the held-out questions of the version that is current now."""
        snapshot = self._registry.snapshot()
        current, result = snapshot.versions[snapshot.current], self._result
        accuracy = await measure(
            self._world,
            agent,
            self._settings.upstream.url,
            current.model,
            result.held_out_questions,
            result.seed,
        )
        entry = Version(current.version, traffic.sessions, traffic.counts.thumbs, trained, accuracy)
        result.versions.append(entry)
        sys.stderr.write(f"{result.world} {result.variant}, seed {result.seed}: {entry}\n")

    def _settle(self) -> None:
        """Wait until the round's last session is closed and scored."""
        time.sleep(self._settings.rewards.label_window_seconds)
        deadline = time.monotonic() + SETTLE_SECONDS
        while self._redis.zcard(keys.OPEN) or self._redis.zcard(keys.SCORING):
            if time.monotonic() > deadline:
                raise RuntimeError("sessions were not scored in time")
            time.sleep(SUPERVISE_SECONDS)

    def _learn(self) -> int:
        """One round in a process of its own; how many trajectories it learned from."""
        command = [sys.executable, "-m", "trainer", "--once"]
        environment = {**os.environ, **environment_of(self._settings)}
        with (self._directory / "trainer.log").open("ab") as log:
            ended = subprocess.run(
                command, env=environment, stdout=log, stderr=log, preexec_fn=die_with_parent
            )
        if ended.returncode == LACKING:
            self._result.lacking = "a round had too little to learn from: trainer.log says what"
            return 0
        if ended.returncode:
            raise RuntimeError(f"a round failed with {ended.returncode}: see trainer.log")
        snapshot = self._registry.snapshot()
        return int(snapshot.versions[snapshot.current].metrics.get("trajectories", 0))

    def _supervise(self, stop: threading.Event) -> None:
        while not stop.wait(SUPERVISE_SECONDS):
            with suppress(ProcessLookupError):
                self._loop.supervise()

    def _account(self, traffic: Traffic) -> None:
        result, counts = self._result, traffic.counts
        result.sessions, result.thumbs = traffic.sessions, counts.thumbs
        result.failed_sessions, result.failed_thumbs = counts.failed_sessions, counts.failed_thumbs
        result.raised, result.curve = dict(counts.raised), traffic.curve
        result.transitions = int(self._store.counts()["transitions"])
