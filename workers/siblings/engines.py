"""What vLLM says of itself: whether it has anything to do, and how much it can read."""

import json
import logging
import re
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

    def __init__(self, urls: Sequence[str], busy_requests: int, key: str | None = None) -> None:
        self._urls = tuple(urls)
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._busy_requests = busy_requests
        self._is_known = True

    def is_idle(self) -> bool:
        """Whether every engine says that it has next to nothing to do."""
        return all(self._has_room(url) for url in self._urls)

    def context_length(self) -> int | None:
        """Tokens of prompt and answer that all of them can read; None where one does not say."""
        found = [self._length_of(url) for url in self._urls]
        said = [length for length in found if length is not None]
        return min(said) if said and len(said) == len(found) else None

    def _length_of(self, url: str) -> int | None:
        try:
            models = json.loads(self._read(f"{url}/v1/models"))["data"]
            lengths = [model.get("max_model_len") for model in models]
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None
        return min((length for length in lengths if type(length) is int), default=None)

    def _read(self, url: str) -> str:
        request = urllib.request.Request(url, headers=self._headers)
        with _DIRECT.open(request, timeout=LOOK_SECONDS) as answer:
            return str(answer.read(MOST_BYTES).decode("utf-8", "replace"))

    def _has_room(self, url: str) -> bool:
        try:
            page = self._read(f"{url}/metrics")
        except (OSError, ValueError) as error:
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
