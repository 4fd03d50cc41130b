"""One upstream: its replicas, what each request to it begins with, and how one is chosen."""

from collections.abc import Sequence
from math import ceil

from gateway.call import Call
from gateway.dialects.asking import Asked
from gateway.errors import ApiError
from gateway.outbox import Outbox
from gateway.upstreams.balance import Replica, choose
from gateway.upstreams.breaker import Breaker
from gateway.upstreams.pool import Listener, Pool
from trajectories.settings import BreakerSettings, Patience


class Replicated:
    """What answers under one name, and which of its replicas is to. Use it from one event loop."""

    def __init__(
        self, name: str, urls: Sequence[str], *, patience: Patience, breaker: BreakerSettings
    ) -> None:
        self.name = name
        self.replicas = [Replica(url, Breaker(breaker)) for url in urls]
        # Read for each call: plain attributes.
        self.connect_seconds = patience.connect_seconds
        self.first_byte_seconds = patience.first_byte_seconds
        self.idle_seconds = patience.idle_seconds
        self.total_seconds = patience.total_seconds
        self.retries = patience.retries

    def choose(self, affinity: int, now: float, *, avoid: Replica | None = None) -> Replica:
        """The replica that is to answer. Raises ApiError 503 while none may be asked."""
        replica = choose(self.replicas, affinity, now, avoid=avoid)
        if replica is None:
            message = f"{self.name} has failed too often just now; it is tried again in a moment"
            wait = min(replica.breaker.retry_after(now) for replica in self.replicas)
            raise ApiError(503, "upstream_down", message, retry_after=ceil(wait))
        replica.breaker.begin(now)
        replica.in_flight += 1
        return replica

    def come_back(self, replica: Replica, *, is_well: bool | None, now: float) -> None:
        """A request to a replica has ended; None: without telling how it is."""
        replica.in_flight -= 1
        if is_well is None:
            replica.breaker.withdraw(now)
        elif is_well:
            replica.breaker.succeed(now)
        else:
            replica.breaker.fail(now)

    def address(self, now: float) -> str:
        """The url of a replica for what is neither balanced nor counted."""
        return (choose(self.replicas, 0, now) or self.replicas[0]).url


class Server(Replicated):
    """An upstream that is spoken to over HTTP."""

    def __init__(
        self,
        name: str,
        urls: Sequence[str],
        outbox: Outbox,
        *,
        patience: Patience,
        breaker: BreakerSettings,
        credentials: bytes = b"",
    ) -> None:
        """`credentials` are header lines that every request gets."""
        super().__init__(name, urls, patience=patience, breaker=breaker)
        self._pools = {url: Pool(url, outbox) for url in urls}
        self._heads = {
            url: (b"POST " + pool.base_path, _lines_of_all(pool, credentials))
            for url, pool in self._pools.items()
        }

    def send(self, replica: Replica, listener: Listener, asked: Asked, call: Call) -> None:
        """Write the request; `listener` hears the answer."""
        start, lines = self._heads[replica.url]
        query = b"?" + call.query if call.query else b""
        self._pools[replica.url].send(
            listener,
            b"%b%b%b%b%bcontent-length: %d\r\n\r\n%b"
            % (start, asked.path, query, lines, call.passed_on, len(asked.payload), asked.payload),
        )

    def drop_idle(self, now: float) -> None:
        """Close connections that have been idle for long."""
        for pool in self._pools.values():
            pool.drop_idle(now)

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()

    async def closed(self) -> None:
        """Nothing has to be waited for."""


def _lines_of_all(pool: Pool, credentials: bytes) -> bytes:
    return (
        b" HTTP/1.1\r\nhost: %b\r\ncontent-type: application/json\r\n"
        # A compressed answer could not be cleaned, and not every client can read one.
        b"accept-encoding: identity\r\n%b" % (pool.host, credentials)
    )
