"""Whether the engines have nothing to do, by what vLLM says of itself on `/metrics`."""

import logging
import re
import urllib.error
import urllib.request
from collections.abc import Sequence

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0  # longest wait for an engine's answer: one that is slow is busy
MOST_BYTES = 4 << 20
_REQUESTS = re.compile(
    r"^vllm:num_requests_(running|waiting)(?:\{[^}\n]*\})? +([0-9.eE+-]+)$", re.MULTILINE
)
# Engines are reached as the gateway reaches them: no proxy of the machine comes in between.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def requests_in(page: str) -> float | None:
    """How many requests run or wait, by a page of vLLM's metrics; None: it does not say.

    >>> requests_in('vllm:num_requests_running{engine="0"} 2.0\\nvllm:num_requests_waiting 1.0')
    3.0
    """
    found = _REQUESTS.findall(page)
    if {name for name, _ in found} != {"running", "waiting"}:
        return None
    try:
        return sum(float(value) for _, value in found)
    except ValueError:
        return None


class Engines:
    """All replicas of the policy's engine: the gateway may send a call to any of them."""

    def __init__(self, urls: Sequence[str], busy_requests: int) -> None:
        self._urls = tuple(urls)
        self._busy_requests = busy_requests
        self._is_known = True

    def is_idle(self) -> bool:
        """Whether every engine says that it has next to nothing to do."""
        return all(self._has_room(url) for url in self._urls)

    def _has_room(self, url: str) -> bool:
        try:
            with _DIRECT.open(f"{url}/metrics", timeout=LOOK_SECONDS) as answer:
                page = answer.read(MOST_BYTES).decode("utf-8", "replace")
        except (urllib.error.URLError, OSError, ValueError) as error:
            self._note(url, f"cannot be read: {error}")
            return False
        requests = requests_in(page)
        if requests is None:
            self._note(url, "says nothing of vllm:num_requests_running and _waiting")
            return False
        self._is_known = True
        return requests < self._busy_requests

    def _note(self, url: str, why: str) -> None:
        """One line when nothing can be known of an engine, until it can again."""
        if self._is_known:
            log.warning("%s/metrics %s: it counts as busy", url, why)
        self._is_known = False
