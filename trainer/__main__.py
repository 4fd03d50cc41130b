"""The trainer's process: `python -m trainer [--once | --dry-run]`.

Exit status: 0 done or stopped, 1 the round failed, 2 wrong settings, 3 too
little to learn from (--once, --dry-run), 4 another trainer holds the lease.
"""

import argparse
import logging
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trajectories.settings import Settings


def main() -> int:
    """Parse, then import, then run until a signal."""
    parser = argparse.ArgumentParser(prog="trainer", description="Learn from recorded traffic")
    parser.add_argument("--once", action="store_true", help="one round now, then exit")
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
    from trainer.training import Training, command_for
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
        if arguments.algorithm:
            settings = settings.with_algorithm(arguments.algorithm)
        asks_of(settings.trainer.algorithm, settings.trainer)  # says what is not installed
        if arguments.dry_run:
            return show_round(
                settings,
                connect(settings.redis),
                agent=arguments.agent,
                force=arguments.force,
            )
        base = find_base(settings)
        command_for(settings.trainer)  # a launch that cannot be is said now, not after an hour
        training = Training(environment=training_environment(settings.trainer.launch))
        watch(settings)
        with Loop(settings, redis=connect(settings.redis), base=base, training=training) as loop:
            if arguments.once:
                return run_once(loop, stop, force=arguments.force, agent=arguments.agent)
            loop.run(stop)
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


def watch(settings: "Settings") -> None:
    """Serve /metrics, where a port is set. Raises SettingsError when it cannot be had."""
    from trainer.metrics import Rounds, Versions, serve_metrics
    from trajectories.connection import connect
    from trajectories.errors import SettingsError
    from trajectories.registry import Registry

    host, port = settings.trainer.metrics_host, settings.trainer.metrics_port
    if not port:
        return
    registry = Registry(connect(settings.redis), settings.policy, settings.upstream.base_model)
    try:
        serve_metrics(host, port, [Rounds(settings.runs_dir), Versions([registry])])
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
