"""The list of models, and one of them, in OpenAI's and in Anthropic's shape.

Pure. Listed are the names a client may use: aliases of the policy, routes to
other upstreams, and what the engine serves besides. Adapters are hidden: their
names are ours, and an alias says which version it means now.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from gateway.routing import ANY
from trajectories.registry import Snapshot

Entry = dict[str, Any]
_LAST_SECOND = 253_402_300_799  # of the year 9999


def model_list(
    entries: Iterable[Entry],
    aliases: Mapping[str, Snapshot],
    anthropic: bool = False,
    *,
    routes: Iterable[str] = (),
) -> dict[str, Any]:
    """The whole list. `entries` are the engine's own, `routes` the names other upstreams answer.

    `aliases` name policies, each with its versions.
    """
    found = list(_known(entries, aliases, routes).values())
    if not anthropic:
        return {"object": "list", "data": found}
    return {
        "data": [_anthropic(entry) for entry in found],
        "has_more": False,
        "first_id": found[0]["id"] if found else None,
        "last_id": found[-1]["id"] if found else None,
    }


def model_entry(
    name: str,
    entries: Iterable[Entry],
    aliases: Mapping[str, Snapshot],
    anthropic: bool = False,
    *,
    routes: Iterable[str] = (),
) -> Entry | None:
    """One model of the list; None when it is not there."""
    entry = _known(entries, aliases, routes).get(name)
    return _anthropic(entry) if entry is not None and anthropic else entry


def _known(
    entries: Iterable[Entry], aliases: Mapping[str, Snapshot], routes: Iterable[str]
) -> dict[str, Entry]:
    found = {name: _alias(name, snapshot) for name, snapshot in aliases.items() if name != ANY}
    for name in routes:
        if name != ANY:
            found.setdefault(name, _entry(name, 0))
    for entry in entries:
        served = entry.get("id")
        if isinstance(served, str):
            found.setdefault(served, entry)
    return found


def _alias(name: str, snapshot: Snapshot) -> Entry:
    """An alias as a model: it says which version it means now."""
    current = snapshot.versions[snapshot.current]
    return {
        **_entry(name, int(current.promoted_at or current.created_at)),
        "root": snapshot.versions[0].model,
        "policy": snapshot.policy,
        "policy_version": snapshot.current,
    }


def _entry(name: str, created: int) -> Entry:
    return {"id": name, "object": "model", "created": created, "owned_by": "ratchet"}


def _anthropic(entry: Entry) -> Entry:
    created = entry.get("created")
    # The beginning of time stands for "not known", as it does at Anthropic.
    is_known = isinstance(created, int) and 0 <= created <= _LAST_SECOND
    at = datetime.fromtimestamp(float(created or 0) if is_known else 0.0, UTC)
    return {
        "type": "model",
        "id": entry["id"],
        "display_name": entry["id"],
        "created_at": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
    }
