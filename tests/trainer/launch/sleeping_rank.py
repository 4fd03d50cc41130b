"""One rank that trains for ever: leaves its process id beside the run, and sleeps."""

import argparse
import os
import time
from pathlib import Path

from trainer.orphan import die_with

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--parent", type=int)
    arguments = parser.parse_args()
    die_with(arguments.parent)
    (arguments.run / f"rank{os.environ['RANK']}").write_text(f"{os.getpid()}\n")
    time.sleep(600)
