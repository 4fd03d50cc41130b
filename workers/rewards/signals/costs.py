"""Signals about what an answer cost. Against what? Against limits that the settings name.

What is normal depends on the machine, the model and the agent, and a reward has
to be a function of its record alone: so no running average, but `slow_seconds`
and `costly_tokens`, for all or for one agent. They are 0, which is never, until
somebody sets them.
"""

from workers.rewards.signals.signal import Signal
from workers.rewards.story import Turn


def slow(turn: Turn) -> str | None:
    """The answer took longer than `slow_seconds`."""
    limit = turn.limits.slow_seconds
    seconds = turn.transition.latency_seconds
    if 0 < limit < seconds:
        return f"the answer took {seconds:.1f} s, more than {limit:g}"
    return None


def costly(turn: Turn) -> str | None:
    """The model wrote more than `costly_tokens` tokens, thinking included."""
    limit = turn.limits.costly_tokens
    tokens = _written(turn) if limit > 0 else 0
    if 0 < limit < tokens:
        return f"the answer took {tokens} tokens, more than {limit:g}"
    return None


def _written(turn: Turn) -> int:
    """Tokens of the first answer: the engine's own ids, else what the usage says."""
    choices = turn.transition.choices
    if choices and choices[0].token_ids:
        return len(choices[0].token_ids)
    usage = turn.transition.usage or {}
    for name in ("completion_tokens", "output_tokens"):
        if isinstance(usage.get(name), int):
            return int(usage[name])
    return 0


SIGNALS = (
    Signal("slow", 1, -0.1, slow),
    Signal("costly", 1, -0.1, costly),
)
