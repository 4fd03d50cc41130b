"""`python -m workers dispatcher`, `worker`, `verdicts`, `archiver`: between gateway and trainer.

Parses arguments first and imports after, so that `--help` is quick. Settings
come from `ratchet.toml` and the environment (docs/settings.md).
"""

import argparse
import logging
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run one process until SIGTERM or Ctrl-C; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m workers", description=__doc__)
    parser.add_argument(
        "process",
        choices=("dispatcher", "worker", "verdicts", "archiver"),
        help="dispatcher: streams to the store and the queues. worker: runs reward jobs."
        " verdicts: asks judges, webhooks and custom rewards."
        " archiver: what was scored to the archive",
    )
    process = parser.parse_args(arguments).process

    from trajectories.errors import SettingsError
    from trajectories.lease import LeaseHeld
    from trajectories.settings import load_settings
    from trajectories.signals import stop_on_signals

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    stop = stop_on_signals()
    try:
        settings = load_settings()
        if process == "dispatcher":
            from workers.dispatcher import build_dispatcher

            build_dispatcher(settings).run(stop)
        elif process == "archiver":
            from workers.archiver import build_archiver

            build_archiver(settings).run(stop)
        elif process == "verdicts":
            from workers.verdicts.worker import run_verdict_worker

            run_verdict_worker(settings, stop)
        else:
            from workers.worker import run_worker

            run_worker(settings, stop)
    except SettingsError as error:
        logging.getLogger(__name__).error("%s", error)  # noqa: TRY400 - the message says it all
        return 2
    except LeaseHeld as error:
        logging.getLogger(__name__).error("%s", error)  # noqa: TRY400 - as above
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
