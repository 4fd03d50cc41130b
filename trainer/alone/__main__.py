"""`python -m trainer.alone --from traffic.jsonl --base MODEL --out DIR`: a round from a file.

Exit status: 0 an adapter came out (or a dry run found enough), 1 none did, 2
wrong settings, 3 too little to learn from. `ratchet train --from` starts it.
"""

import argparse
import logging
import sys
from pathlib import Path


def main() -> int:
    """Parse, then import, then run."""
    parser = argparse.ArgumentParser(prog="trainer.alone", description="Learn from a file")
    parser.add_argument("--from", dest="traffic", type=Path, required=True, help="JSON lines")
    parser.add_argument("--base", help="directory or hub name of the base model")
    parser.add_argument("--out", type=Path, help="where the adapter goes")
    parser.add_argument("--adapter", type=Path, help="an adapter to go on from")
    parser.add_argument("--version", type=int, help="of the adapter: which calls are its own")
    parser.add_argument("--algorithm", help="default: trainer.algorithm")
    parser.add_argument("--agent", help="learn from this agent's calls alone")
    parser.add_argument("--dry-run", action="store_true", help="show what it would learn from")
    parser.add_argument("--force", action="store_true", help="however little there is")
    parser.add_argument("--skip-bad", action="store_true", help="do without lines that are wrong")
    arguments = parser.parse_args()

    from trainer.__main__ import training_environment
    from trainer.alone.order import Order, check_start
    from trainer.alone.show import look_into, run_round
    from trainer.base import resolve_base
    from trainer.reporters import check_reporters
    from trainer.training import Training
    from trajectories.errors import RatchetError, SettingsError
    from trajectories.settings import load_settings
    from trajectories.signals import stop_on_signals

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    stop = stop_on_signals()
    order = Order(
        arguments.traffic,
        agent=arguments.agent,
        is_forced=arguments.force,
        skips_bad=arguments.skip_bad,
        adapter=arguments.adapter and arguments.adapter.resolve(),
        version=arguments.version,
    )
    try:
        settings = load_settings()
        check_start(order, is_full=settings.is_full)
        if arguments.algorithm:
            settings = settings.with_algorithm(arguments.algorithm)
        if arguments.dry_run:
            return look_into(order, settings)
        if arguments.out is None:
            raise SettingsError("--out is not given: the directory that the adapter shall go to")
        base = arguments.base or settings.trainer.base_model_path
        if base is None:
            raise SettingsError(
                "neither --base nor trainer.base_model_path says where the model is that was"
                " sampled from"
            )
        check_reporters(settings.trainer)
        return run_round(
            order,
            settings,
            out=arguments.out.resolve(),
            base=resolve_base(base),
            training=Training(environment=training_environment(settings.trainer.launch)),
            stop=stop,
        )
    except SettingsError as error:
        logging.getLogger("trainer").critical("%s", error)
        return 2
    except (RatchetError, OSError) as error:
        logging.getLogger("trainer").critical("%s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
