"""`ratchet train`: one round now, a look at what it would learn from, or a round from a file."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ratchet.processes import run_in_foreground
from ratchet.redis_server import environment_of, open_redis
from ratchet.triggers import request_round, trainer_status
from trajectories.connection import Redis
from trajectories.errors import NotEnoughRewards, RatchetError
from trajectories.settings import Settings, load_settings

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

NOT_ENOUGH = 3  # the exit code of a round that had too little to learn from


def train(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what a round would learn from, and stop.")
    ] = False,
    algorithm: Annotated[
        str | None, typer.Option(help="Of this round, such as sft or sft+grpo.")
    ] = None,
    agent: Annotated[str | None, typer.Option(help="Learn from this agent's calls alone.")] = None,
    policy: Annotated[
        str | None, typer.Option(help="Of this policy (default: the one that `policy` names).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="However little there is.")] = False,
    keep_on: Annotated[
        bool, typer.Option("--keep-on", help="Round after round, until stopped.")
    ] = False,
    traffic: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Learn from this file of token-level records: no Redis, no gateway."
        ),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(help="With --from: the base model (default: trainer.base_model_path)."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--out", help="With --from: where the adapter goes.")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="With --from: an adapter to go on from.")
    ] = None,
    version: Annotated[
        int | None,
        typer.Option(
            help="With --adapter: which calls are its own (default: one above the newest)."
        ),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="With --from: do without lines that are no records.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", hidden=True)] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="Where everything is kept (default: data_dir)."),
    ] = None,
) -> None:
    """Do a round of training now. Where a trainer runs, it is the one that does it.

    Stopped by Ctrl-C, it goes on from its last checkpoint, over the same rows, at the next start.
    """
    if keep_on and (once or dry_run or traffic):
        raise RatchetError("--keep-on goes on without end: leave out --once, --dry-run and --from")
    if keep_on and (agent is not None or force):
        raise RatchetError("--agent and --force are of one round: --keep-on does all there are")
    if traffic is not None:
        if policy is not None:
            raise RatchetError("--policy goes with the log: --from makes one adapter for --out")
        if data_dir is not None:
            raise RatchetError("--data-dir goes with the log: --from keeps everything in --out")
        raise typer.Exit(
            _from_file(
                {"--from": traffic, "--base": base, "--out": output, "--adapter": adapter}
                | {"--version": version, "--algorithm": algorithm, "--agent": agent},
                {"--dry-run": dry_run, "--skip-bad": skip_bad, "--force": force},
            )
        )
    if given := [
        name
        for name, value in {
            "--base": base,
            "--out": output,
            "--adapter": adapter,
            "--version": version,
            "--skip-bad": skip_bad or None,
        }.items()
        if value is not None
    ]:
        raise RatchetError(f"{given[0]} goes with --from: a round from the log knows where to look")
    settings = load_settings(**({} if data_dir is None else {"data_dir": data_dir}))
    own = settings.for_policy(policy or settings.policy)
    with open_redis(settings) as redis:
        redis.ping()
        is_one = not keep_on and not dry_run
        if is_one and trainer_status(redis, own.policy) is not None:
            raise typer.Exit(
                _by_running_trainer(redis, own, algorithm=algorithm, agent=agent, force=force)
            )
        command = [sys.executable, "-m", "trainer"]
        command += ["--once"] if is_one else []
        command += _written(
            {"--policy": policy, "--algorithm": algorithm, "--agent": agent},
            {"--dry-run": dry_run, "--force": force},
        )
        status = run_in_foreground(command, environment_of(settings))
    raise typer.Exit(status)


def _from_file(options: dict[str, object], flags: dict[str, bool]) -> int:
    """Have the trainer alone do it: neither Redis nor an engine is needed."""
    if options["--out"] is None and not flags["--dry-run"]:
        raise RatchetError("--from needs --out: the directory that the adapter shall go to")
    return run_in_foreground([sys.executable, "-m", "trainer.alone", *_written(options, flags)], {})


def _written(options: dict[str, object], flags: dict[str, bool]) -> list[str]:
    found = [part for name, value in options.items() if value is not None
             for part in (name, str(value))]  # fmt: skip
    return found + [name for name, is_set in flags.items() if is_set]


def _by_running_trainer(
    redis: Redis, settings: Settings, *, algorithm: str | None, agent: str | None, force: bool
) -> int:
    """Exit status: 0 promoted, 1 rejected or failed, NOT_ENOUGH when there was too little."""
    try:
        with out.status("the running trainer does a round"):
            run = request_round(
                redis, settings.policy, algorithm=algorithm, agent=agent, force=force
            )
    except NotEnoughRewards as lack:
        err.print(str(lack))
        return NOT_ENOUGH
    out.print(f"{run['phase']}: {settings.policy}@{run['version']} {run['reason']}".rstrip())
    return 0 if run["phase"] == "promoted" else 1
