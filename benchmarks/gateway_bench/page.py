"""docs/benchmarks.md, section by section: each kind of run replaces its own and leaves the rest."""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from benchmarks.gateway_bench.endurance import IdleStreams, Soak
from benchmarks.gateway_bench.machine import Machine
from benchmarks.gateway_bench.rows import Row
from benchmarks.gateway_bench.table import (
    COLUMNS,
    VERDICT_COLUMNS,
    cells,
    grouped,
    title,
    verdict_cells,
)

SECTIONS = (
    "gateways",
    "soak",
    "idle",
    "store",
    "ingest",
    "ingest-http",
    "overhead",
    "archive",
    "round start",
    "gpu",
)
SKELETON = """\
# Benchmarks

What the gateway and the store cost. Every figure on this page was written here by a program,
each of which owns a section: `benchmarks/gateway.py` (`make benchmark-gateway`),
`benchmarks/store.py --write`, `benchmarks/ingest.py --write` and `python -m benchmarks.overhead
--write`.

## Gateways side by side

<!-- begin gateways -->
Not measured yet: `make benchmark-gateway`.
<!-- end gateways -->

### How it is measured

One machine, one process (one worker) for each gateway, all of them started before the same scripted
upstream and idle while another is measured. Upstream and load client are one C program
(`benchmarks/wire.c`), so that neither is what is measured. A round visits each gateway in turn
under the same traffic, and each round begins with another one; a visit is a warm-up and then the
measurement. The tables show the median over the rounds and, in brackets, the least and the most.

- **CPU µs** is user and system time of the gateway's whole process tree, divided by the requests it
  answered. It is the figure to trust on a busy machine. Nothing is subtracted for what a gateway
  does while idle.
- **+p50 and +p99** are a percentile of the time to the last byte minus the same percentile of
  asking the upstream directly, in the same round. With 32 clients every gateway is saturated and
  the figure is mostly waiting; with one client it is what a user feels.
- **RSS** is summed over the processes of a gateway, memory they share counted for each.
- **errors** are answers that were not 200, not whole, or (streams) without all events and `[DONE]`.

Requests are those of the OpenAI SDK, with a chat of about 1 KB in which a number changes from one
to the next, and no session header. The upstream answers as vLLM 0.32 does: 1 KB of JSON, or a
stream of 51 events, either all in one write or each in a write of its own some milliseconds after
the last.

What is on in each: **ratchet** checks a key, resolves an alias, works out whose call it is, asks
the upstream for token ids and log probabilities (so it reads 10 times the bytes of a JSON answer
that the others read), takes them out again, and records every call to its spool and to a real
Redis. **ratchet-relay** is the same with a route to an upstream that is not ours
([upstreams.md](upstreams.md)), which is asked for no ids: like for like, since of a JSON answer
every gateway then passes the same bytes (of a stream it asks for the usage); it checks, attributes
and records as well. The limits for JSON answers are held against that line, those for streams and
the 300 µs against the one with ids. The other line stands below each without a limit, so that what
ids cost is seen. The run fails when Redis did not get as many records as there were answers, and
the CPU time is read only after it got them. It runs [compiled](compiled.md), as in its image,
unless the command says `--pure`. **LiteLLM** checks a key and resolves an alias. The others check
and record nothing: **nginx** is a plain reverse proxy with connections kept open, **vllm-router**
and **smg** balance over one upstream, **Portkey** is told by headers where to forward to.

## Memory over a long run

<!-- begin soak -->
Not measured yet: `python benchmarks/gateway.py --soak`.
<!-- end soak -->

## Streams that are open and silent

<!-- begin idle -->
Not measured yet: `python benchmarks/gateway.py --idle-streams 1000 --seconds 60`.
<!-- end idle -->

## Memory of a transition in Redis

<!-- begin store -->
Not measured yet: `python benchmarks/store.py --write`.
<!-- end store -->

Conversations of 20 turns with a system prompt of 2 KB; each record says the whole conversation so
far. **Redis, bytes** is the growth of `used_memory` by all that the dispatcher and the reward job
write, divided by the transitions. The layout **JSON** is that of before: one JSON for each
transition, and a key for each thing it is known by, without rewards. Text is cut from the
docstrings of Python's library, so that no two messages are the same; the client sends an answer
back without what the engine left empty in it.

## From the spool to a reward

<!-- begin ingest -->
Not measured yet: `python benchmarks/ingest.py --write`.
<!-- end ingest -->

The processes are those of a deployment, on one machine: a gateway's spool and shipper, Redis, one
dispatcher, one worker. CPU is what to trust where others work on the machine, too: two cores have
2,000,000 us a second, and 1,500 transitions may take 1,333 each.

### From the port of a gateway on

<!-- begin ingest-http -->
Not measured yet: `python benchmarks/ingest.py --http --write`.
<!-- end ingest-http -->

The same, and a whole gateway before it, which asks a scripted upstream for token ids and logprobs;
the client and that upstream share the two cores.

## Training, against plain TRL

<!-- begin overhead -->
Not measured yet: `python -m benchmarks.overhead --write`.
<!-- end overhead -->

A random Qwen3 of 6 million weights, LoRA of rank 16, one epoch over 40 calls in steps of 16, one
thread. **TRL** is its GRPO trainer with its own loss; it is given the rows where it would have
generated, so that only our reading, loss, metrics and budgets are the difference. **Tokens** are
those that the model runs over, without padding. CPU is what to trust where others compute as well.

## A million archived transitions

<!-- begin archive -->
Not measured yet: `python benchmarks/archive.py`.
<!-- end archive -->

## A round out of a million transitions

<!-- begin round start -->
Not measured yet: `python benchmarks/round_start.py --page docs/benchmarks.md`.
<!-- end round start -->

## A round on a GPU

<!-- begin gpu -->
Not measured yet: `python benchmarks/gpu_round.py`.
<!-- end gpu -->
"""


def replaced(page: str, section: str, text: str) -> str:
    """The page with one section exchanged. Raises ValueError when it has no such section."""
    marks = re.compile(f"(<!-- begin {section} -->\n).*?(<!-- end {section} -->)", re.DOTALL)
    if not marks.search(page):
        raise ValueError(f"the page has no section {section}")
    return marks.sub(lambda found: f"{found[1]}{text.strip()}\n{found[2]}", page)


def write(path: Path, section: str, text: str) -> None:
    """Exchange a section on disk. The words around come from here, the other sections stay."""
    page = SKELETON
    if path.is_file():
        for name, kept in sections(path.read_text()).items():
            page = replaced(page, name, kept)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(replaced(page, section, text))


def sections(page: str) -> dict[str, str]:
    """What stands in each section of a page."""
    found = {}
    for name in SECTIONS:
        marks = re.search(f"<!-- begin {name} -->\n(.*?)<!-- end {name} -->", page, re.DOTALL)
        if marks:
            found[name] = marks[1]
    return found


def origin(machine: Machine, command: str, day: date) -> str:
    """Where and how figures were made."""
    return (
        f"`{command}` on {day.isoformat()}: {machine.processor}, {machine.cores} cores,"
        f" {machine.memory_gb:.0f} GB; {machine.system}."
    )


def comparison(
    rows: Sequence[Row],
    *,
    missing: Mapping[str, str],
    versions: Mapping[str, str],
    idle: Mapping[str, float],
    how: str,
) -> str:
    """The section of the side-by-side run."""
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    parts = [how, f"Versions: {named}."]
    if promised := verdict_cells(rows):
        parts.append(markdown(VERDICT_COLUMNS, promised))
    for (scenario, clients), group in grouped(rows).items():
        heading = f"### {title(scenario, clients)}"
        lines = [cells(row) for row in group]
        lines += [[name, "missing", *[""] * (len(COLUMNS) - 2)] for name in missing]
        parts.append(f"{heading}\n\n{markdown(COLUMNS, lines)}")
    if missing:
        reasons = "\n".join(f"- {name}: {reason}" for name, reason in missing.items())
        parts.append(f"Missing here, and why:\n\n{reasons}")
    if idle:
        burnt = ", ".join(f"{name} {share * 1000:.0f}" for name, share in idle.items())
        parts.append(f"CPU of an idle gateway, in milliseconds a second: {burnt}.")
    faults = [
        f"- {row.gateway}, {row.scenario} x {row.clients}: {row.errors} errors, the first"
        f" `{row.first_error}`"
        for row in rows
        if row.errors
    ]
    if faults:
        parts.append("Errors:\n\n" + "\n".join(faults))
    return "\n\n".join(parts)


def markdown(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table: the first column to the left, figures to the right."""
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, rule, *lines))


def long_run(found: Soak, how: str) -> str:
    """The section of the soak."""
    return (
        f"{how}\n\nRatchet answered {found.requests:,} JSON requests and then"
        f" {found.streams:,} streams (32 clients) with {found.errors} errors."
        f" RSS was {found.rss_start_mb:.0f} MB at the start, {found.rss_half_mb:.0f} MB after half"
        f" of the calls, {found.rss_end_mb:.0f} MB at the end and {found.rss_most_mb:.0f} MB at"
        " its highest. Every call was recorded."
    )


def silent_streams(found: IdleStreams, how: str) -> str:
    """The section of the idle streams."""
    return (
        f"{how}\n\n{found.streams:,} streams were open at once, each silent for"
        f" {found.seconds:.0f} s after its first event. {found.served:,} were served whole,"
        f" {found.errors} were not. RSS was {found.rss_start_mb:.0f} MB before and"
        f" {found.rss_most_mb:.0f} MB at its highest; the gateway used {found.cpu_seconds:.1f} s of"
        " CPU. 99 % had their first event within"
        f" {found.first_event_p99_ms:.0f} ms."
    )
