"""What looking for secrets adds to a call: python -m benchmarks.redaction [--json FILE]

The payload of an exchange with token ids and logprobs, made with and without
redaction, for several sizes of the client's body; the best of several rounds.
"""

import argparse
import json
import time
import timeit
from pathlib import Path
from typing import Any

import orjson

from gateway.dialects.chat import FoldedChoice
from gateway.dialects.fold import Folded
from gateway.spool.payload import whole_payload
from trajectories.privacy.secrets import NO_REDACTION, Redactor

SIZES = (1024, 4096, 11_000)
KNOWN = [("gateway_key", "gateway-key-0001"), ("upstream_key", "up-key-00000002")]
TEXT = (Path(__file__).parent.parent / "docs" / "decisions.md").read_text()
RECORD: dict[str, Any] = {
    "id": "tr_1",
    "tenant": "default",
    "trajectory_id": "traj_1",
    "error": None,
    "model": "policy",
    "outcome": None,
}


def exchange(size: int) -> tuple[bytes, Folded]:
    """A body of `size` bytes in all with its answer, and a token id for each four bytes."""
    said = TEXT[: size // 4]
    messages = [{"role": "user", "content": ""}]
    spare = size - len(said) - len(orjson.dumps({"model": "policy", "messages": messages}))
    messages[0]["content"] = (TEXT * 3)[: max(1, spare)]
    ids = orjson.dumps(list(range(1000, 1000 + len(said) // 4)))
    logprobs = orjson.dumps([-0.12345678 - n / 1e4 for n in range(len(said) // 4)])
    choice = FoldedChoice(
        message={"role": "assistant", "content": said},
        finish_reason="stop",
        token_ids=orjson.Fragment(ids),
        logprobs=orjson.Fragment(logprobs),
    )
    prompt = orjson.Fragment(orjson.dumps(list(range(size // 4))))
    answer = Folded("chatcmpl-1", (choice,), prompt, None, None, is_done=True)
    return orjson.dumps({"model": "policy", "messages": messages}), answer


def microseconds(body: bytes, answer: Folded, redactor: Redactor) -> float:
    """One payload."""
    record = {**RECORD, "request": orjson.Fragment(body)}
    rounds = timeit.repeat(
        lambda: whole_payload(dict(record), answer, redactor),
        timer=time.process_time,  # of CPU: others may work on the machine
        number=2000,
        repeat=9,
    )
    return min(rounds) / 2000 * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    arguments = parser.parse_args()
    rows = []
    for size in SIZES:
        body, answer = exchange(size)
        without = microseconds(body, answer, NO_REDACTION)
        with_it = microseconds(body, answer, Redactor(KNOWN))
        rows.append({"bytes": size, "without_us": without, "added_us": with_it - without})
        print(f"{size:>6} bytes: {without:6.2f} us, redaction adds {with_it - without:5.2f} us")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
