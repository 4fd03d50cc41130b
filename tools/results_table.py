#!/usr/bin/env python3
"""Print the Markdown table of docs/results.md from demo results.

python tools/results_table.py demo-1.json demo-2.json demo-3.json control.json
"""

import json
import sys
from pathlib import Path

COLUMNS = (
    "seed",
    "rewards",
    "sessions",
    "thumbs",
    "accuracy before",
    "accuracy after",
    "versions",
    "requests",
    "failed",
    "cut",
    "slowest swap, s",
    "whole run, s",
)


def row(path: Path) -> list[str]:
    """One run as cells."""
    found = json.loads(path.read_text())
    return [
        str(found["seed"]),
        "shuffled" if found["is_shuffled"] else "as given",
        f"{found['sessions']:,}",
        f"{found['labels']:,}",
        f"{found['accuracy_before']:.3f}",
        f"{found['accuracy_after']:.3f}",
        str(len(found["versions"])),
        f"{found['requests']:,}",
        str(found["failed_requests"]),
        str(found["cut_streams"]),
        f"{max(found['swap_seconds'], default=0):.1f}",
        f"{found['seconds']:.0f}",
    ]


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    for name in sys.argv[1:]:
        print("| " + " | ".join(row(Path(name))) + " |")


if __name__ == "__main__":
    main()
