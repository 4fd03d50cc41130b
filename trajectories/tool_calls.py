"""Tool calls in one spelling: equal where the very same was called. Pure.

What differs between two runs of the same is left out: ids of calls, the order
and spacing of arguments.
"""

from typing import Any

import orjson


def plain_call(call: Any) -> list[Any]:
    """Name and arguments of a call of a tool; of what is none, all of it.

    >>> plain_call({"id": "a", "function": {"name": "f", "arguments": '{"y": 1, "x": 2}'}})
    ['f', '{"x":2,"y":1}']
    """
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return [sorted_json(call)]
    return [function.get("name"), _arguments(function.get("arguments"))]


def sorted_json(value: Any) -> str:
    """`value` as JSON with sorted keys."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _arguments(written: Any) -> str:
    """Arguments as one spelling; what is not JSON stays as it is."""
    try:
        return sorted_json(orjson.loads(written))
    except (orjson.JSONDecodeError, TypeError):
        return str(written)
