"""The signals of AIR, by subject. A new one: a function and a `Signal` in the list of its file.

`find` is pure and careful (a false alarm is a wrong reward), its docstring says
what it means, tests/cases/air holds cases that fire and cases that must not,
and docs/air.md has its row: tests compare.
"""

from workers.rewards.signals import answers, costs, structure, tool_calls, tool_results, users
from workers.rewards.signals.signal import Signal

__all__ = ["SIGNALS", "Signal"]

SIGNALS: tuple[Signal, ...] = (
    *tool_calls.SIGNALS,
    *tool_results.SIGNALS,
    *structure.SIGNALS,
    *answers.SIGNALS,
    *users.SIGNALS,
    *costs.SIGNALS,
)
