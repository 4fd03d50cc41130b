"""`python -m workers dispatcher`, `worker`, `verdicts`, `siblings`, `archiver`: behind the gateway.

`replay` is none of them: it computes the rewards of old traffic anew, and ends.

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
        choices=(
            *("dispatcher", "worker", "verdicts", "calibrate", "siblings", "archiver", "replay"),
        ),
        help="dispatcher: streams to the store and the queues. worker: runs reward jobs."
        " verdicts: asks judges, webhooks and custom rewards. calibrate: fits judges once."
        " siblings: further answers to recorded prompts, while the engine is idle."
        " archiver: what was scored to the archive. replay: rewards anew, with options of its own",
    )
    given, rest = parser.parse_known_args(arguments)
    process = given.process
    if rest and process != "replay":
        parser.error(f"unknown: {' '.join(rest)}")

    from trajectories.errors import SettingsError
    from trajectories.lease import LeaseHeld
    from trajectories.settings import load_settings
    from trajectories.signals import stop_on_signals

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = load_settings()
        if process == "replay":
            from workers.replay import run_replay

            return run_replay(settings, rest)
        stop = stop_on_signals()
        if process == "dispatcher":
            from workers.dispatcher import build_dispatcher

            build_dispatcher(settings).run(stop)
        elif process == "archiver":
            from workers.archiver import build_archiver

            build_archiver(settings).run(stop)
        elif process == "verdicts":
            from workers.verdicts.worker import run_verdict_worker

            run_verdict_worker(settings, stop)
        elif process == "siblings":
            from workers.siblings.worker import run_sibling_worker

            run_sibling_worker(settings, stop)
        elif process == "calibrate":
            from workers.verdicts.worker import calibrate_all

            calibrate_all(settings)
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
