"""One rank that believes to be in a round of its own, and says what came of it."""

import argparse
import os
from pathlib import Path

from accelerate import PartialState

from trainer import ranks

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--parent", type=int)
    arguments = parser.parse_args()
    rank = os.environ["RANK"]
    try:
        ranks.join("cpu", f"start 1 of run_{rank}")
    except ranks.Strangers as error:
        (arguments.run / f"rank{rank}").write_text(str(error))
    ranks.wait()
    PartialState().destroy_process_group()  # else gloo's threads may abort it on its way out
