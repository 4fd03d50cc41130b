"""What every dialect gives the exchange for one call: how an answer becomes the client's."""

from typing import Any, Protocol

from gateway.dialects.fold import Folded


class Reply(Protocol):
    """One answer on its way. A stream: `feed` until `is_done` or its end, then `finish`."""

    @property
    def is_done(self) -> bool:
        """Whether the upstream has said that its stream is whole."""

    @property
    def usage(self) -> dict[str, Any] | None:
        """The tokens of a stream, in chat's words, once they are known."""

    @property
    def needs_bytes(self) -> bool:
        """Whether the stream's bytes have to be kept, and folded when they are shipped."""

    def folded(self) -> Folded:
        """What a stream has said so far; only where its bytes are not needed."""

    def feed(self, piece: bytes) -> bytes:
        """The client's bytes for a piece of the upstream's stream."""

    def finish(self) -> bytes:
        """The closing bytes; call it when the upstream has ended its stream."""

    def broken(self, code: str, message: str) -> bytes:
        """What tells the client that its stream will not go on."""

    def whole(self, raw: bytes) -> tuple[bytes, Folded]:
        """The client's bytes for a whole answer, and what is recorded of it.

        Raises ApiError when there is nothing that its client could read.
        """

    def refusal(self, status: int, raw: bytes) -> tuple[bytes, Folded]:
        """The same for an answer that is an error."""
