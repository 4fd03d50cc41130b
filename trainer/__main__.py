"""The trainer's process: `python -m trainer [--policy NAME | --without NAME] [--once | --dry-run]`.

It goes round all policies (but those left out `--without` them), or trains the
one that is named; one round without a name is a round of the default policy.

Exit status: 0 done or stopped, 1 the round failed, 2 wrong settings, 3 too
little to learn from (--once, --dry-run), 4 another trainer holds the lease.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trajectories.settings import Settings


def main() -> int:
    """Parse, then import, then run until a signal."""
    parser = argparse.ArgumentParser(prog="trainer", description="Learn from recorded traffic")
    parser.add_argument("--once", action="store_true", help="one round now, then exit")
    parser.add_argument("--policy", help="only this one (default: all of them, in turn)")
    parser.add_argument("--without", metavar="POLICY", action="append", default=[], help="not this")
    parser.add_argument("--dry-run", action="store_true", help="show what a round would use")
    parser.add_argument("--force", action="store_true", help="one round, however little there is")
    parser.add_argument("--algorithm", help="of that one round (default: trainer.algorithm)")
    parser.add_argument("--agent", help="that one round is about this agent's calls alone")
    arguments = parser.parse_args()

    from trainer.algorithms.plugins import asks_of
    from trainer.dry import show_round
    from trainer.loop import Loop
    from trainer.once import run_once
    from trainer.phases import find_base
    from trainer.reporters import check_reporters
    from trainer.rota import Rota
    from trainer.training import Training, command_for
    from trainer.turn import Turn
    from trajectories.connection import RedisError, connect
    from trajectories.errors import SettingsError
    from trajectories.lease import LeaseHeld, LeaseLost
    from trajectories.settings import load_settings
    from trajectories.signals import stop_on_signals

    level = logging.WARNING if arguments.once or arguments.dry_run else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    logger = logging.getLogger("trainer")
    stop = stop_on_signals()
    try:
        settings = load_settings()
        everybody, redis, turn = settings.policy_names, connect(settings.redis), Turn()
        is_one = arguments.once or arguments.dry_run or arguments.policy is not None
        names = (arguments.policy or settings.policy,) if is_one else everybody
        names = left_over(names, arguments.without)
        loops = []
        for own in map(settings.for_policy, names):
            if arguments.algorithm:
                own = own.with_algorithm(arguments.algorithm)
            asks_of(own.trainer.algorithm, own.trainer)  # says what is not installed
            if arguments.dry_run:
                return show_round(own, redis, agent=arguments.agent, force=arguments.force)
            if own.trainer.quantization != "none":  # torch is imported for this alone
                from trainer.policy import device_for
                from trainer.quantization import check_quantization

                check_quantization(device_for(own.trainer))
            check_reporters(own.trainer)
            command_for(own.trainer)  # a launch that cannot be is said now, not after an hour
            training = Training(environment=training_environment(own.trainer.launch))
            loops.append(
                Loop(
                    own,
                    redis=redis,
                    base=find_base(settings),
                    training=training,
                    turn=turn,
                    neighbours=[name for name in everybody if name != own.policy],
                )
            )
        watch(settings, names)
        if arguments.once:
            with loops[0] as loop:
                return run_once(loop, stop, force=arguments.force, agent=arguments.agent)
        with Rota(loops, turn) as rota:
            rota.run(stop)
    except SettingsError as error:
        logger.critical("%s", error)
        return 2
    except (LeaseHeld, LeaseLost) as error:
        logger.critical("%s", error)
        return 4
    except RedisError as error:
        logger.critical("Redis cannot be reached: %s", error)
        return 1
    return 0


def left_over(names: Sequence[str], without: Sequence[str]) -> tuple[str, ...]:
    """The policies to train when some have a trainer of their own. Raises SettingsError."""
    from trajectories.errors import SettingsError

    if unknown := sorted(set(without) - set(names)):
        raise SettingsError(f"--without {unknown[0]}: this trains {', '.join(names)}")
    if not (left := tuple(name for name in names if name not in without)):
        raise SettingsError("--without: no policy is left to train")
    return left


def watch(settings: "Settings", policies: Sequence[str]) -> None:
    """Serve /metrics of `policies`, where a port is set. Raises SettingsError if it is taken."""
    from trainer.metrics import Rounds, Versions, serve_metrics
    from trajectories.connection import connect
    from trajectories.errors import SettingsError
    from trajectories.registry import Registry

    host, port = settings.trainer.metrics_host, settings.trainer.metrics_port
    if not port:
        return
    redis = connect(settings.redis)
    registries = [Registry(redis, name, settings.upstream.base_model) for name in policies]
    try:
        serve_metrics(host, port, [Rounds(settings.runs_dir, policies), Versions(registries)])
    except OSError as error:
        raise SettingsError(
            f"trainer.metrics_port: {host}:{port} cannot be had: {error}"
        ) from error


def training_environment(launch: str | None) -> dict[str, str]:
    """The environment of the training process: no network, one GPU unless it is launched."""
    environment = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
    if launch is None:  # TRL refuses several visible GPUs in one process
        environment.setdefault("CUDA_VISIBLE_DEVICES", "0")
    return environment


if __name__ == "__main__":
    sys.exit(main())
