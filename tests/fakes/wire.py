"""HTTP by hand: raw sockets on either side of the gateway, for what no client library would do."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True)
class Message:
    """A request or an answer as it came: its first line, its headers, its body."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def status(self) -> int:
        return int(self.line.split(" ")[1])


@dataclass
class Wire:
    """One connection, read message by message."""

    socket: socket.socket
    pending: bytes = b""

    def send(self, content: bytes) -> None:
        self.socket.sendall(content)

    def read(self) -> Message:
        """The next message. Raises EOFError when the other side has closed before its end."""
        head = self.read_to(b"\r\n\r\n").decode("latin-1")
        line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        headers: dict[str, str] = {}
        for entry in lines:
            name, _, value = entry.partition(":")
            headers[name.lower()] = value.strip()
        if headers.get("transfer-encoding") == "chunked":
            return Message(line, headers, b"".join(self.chunks()))
        return Message(line, headers, self.read_exactly(int(headers.get("content-length", "0"))))

    def chunks(self) -> Iterator[bytes]:
        """The chunks of a body."""
        while size := int(self.read_to(b"\r\n"), 16):
            yield self.read_exactly(size + 2)[:-2]
        self.read_to(b"\r\n")

    def read_to(self, mark: bytes) -> bytes:
        """Up to and with `mark`."""
        while mark not in self.pending:
            self._fill()
        found, _, self.pending = self.pending.partition(mark)
        return found + mark

    def read_exactly(self, size: int) -> bytes:
        while len(self.pending) < size:
            self._fill()
        found, self.pending = self.pending[:size], self.pending[size:]
        return found

    def is_closed(self) -> bool:
        """Wait for the other side to close; False when it says something instead."""
        try:
            return not self.pending and self.socket.recv(1) == b""
        except ConnectionError:
            return True

    def _fill(self) -> None:
        piece = self.socket.recv(65536)
        if not piece:
            raise EOFError(f"the other side has closed after {self.pending[:200]!r}")
        self.pending += piece

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Close with an RST."""
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()


@contextlib.contextmanager
def wire_to(url: str, *, seconds: float = 10, receive_bytes: int | None = None) -> Iterator[Wire]:
    """A connection to a server; `receive_bytes` makes its receive buffer small."""
    host, port = url.removeprefix("http://").split(":")
    with socket.socket() as raw:
        if receive_bytes is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        raw.settimeout(seconds)
        raw.connect((host, int(port)))
        yield Wire(raw)


@dataclass
class RawServer:
    """A server that does with each connection what `script` says.

    The script is called in a thread of its own with the connection and its number,
    from 0; a client that leaves ends it. Afterwards the connection is closed.
    """

    script: Callable[[Wire, int], None]
    url: str = ""
    connections: int = 0
    _wires: list[Wire] = field(default_factory=list)

    @contextlib.contextmanager
    def serve(self) -> Iterator[Self]:
        """Serve on 127.0.0.1; `url` says where."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            threading.Thread(target=self._accept, args=(listening,), daemon=True).start()
            try:
                yield self
            finally:
                listening.shutdown(socket.SHUT_RDWR)
                for wire in self._wires:
                    wire.close()

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = listening.accept()
                accepted.settimeout(30)
                wire = Wire(accepted)
                self._wires.append(wire)
                number, self.connections = self.connections, self.connections + 1
                threading.Thread(target=self._talk, args=(wire, number), daemon=True).start()

    def _talk(self, wire: Wire, number: int) -> None:
        with contextlib.suppress(OSError, EOFError):
            self.script(wire, number)
        with contextlib.suppress(OSError):
            wire.socket.shutdown(socket.SHUT_RDWR)
        wire.close()
