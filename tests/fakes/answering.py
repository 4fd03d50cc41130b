"""A small HTTP server that answers as it is told: for judges and webhooks, and their failures."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Asked"], Any]


@dataclass
class Asked:
    """One request, as it came."""

    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


@dataclass
class AnsweringServer:
    """`answer` gives a body to be sent as JSON, bytes, (status, body), or a word for a fault.

    "hang" never answers, "drip" sends a byte now and then, "close" hangs up,
    "endless" never ends its body, "noise" is no HTTP.
    """

    url: str = ""
    answer: Answer = lambda asked: {}
    asked: list[Asked] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)


@contextmanager
def answering(answer: Answer) -> Iterator[AnsweringServer]:
    """Run one on a free port."""
    server = AnsweringServer(answer=answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.path, headers, raw)
            server.asked.append(asked)
            said = server.answer(asked)
            if isinstance(said, str):
                self._fault(said)
                return
            status, body = said if isinstance(said, tuple) else (200, said)
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def _fault(self, kind: str) -> None:
            self.close_connection = True
            try:
                if kind == "hang":
                    server.is_over.wait(20)
                elif kind == "noise":
                    self.wfile.write(b"\x00\x01 this is no HTTP\r\n\r\n")
                elif kind in ("drip", "endless"):
                    size = 100_000_000
                    self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
                    while not server.is_over.is_set():
                        self.wfile.write(b" " * (1 if kind == "drip" else 1 << 20))
                        if kind == "drip":
                            time.sleep(0.05)
            except OSError:
                pass

        def log_message(self, format: str, *arguments: Any) -> None:
            """Tests are quiet."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}"
    try:
        yield server
    finally:
        server.is_over.set()
        http.shutdown()
        http.server_close()
        thread.join(5)


def completion(content: Any, tokens: int = 50) -> dict[str, Any]:
    """A chat completion whose answer is `content`, as JSON unless it is a text."""
    text = content if isinstance(content, str) else json.dumps(content)
    return {
        "id": "chatcmpl-judge",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": tokens - 10, "completion_tokens": 10, "total_tokens": tokens},
    }
