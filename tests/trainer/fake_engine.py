"""A fake engine: the five routes the swap controller uses, over real HTTP, in a thread.

It "serves" an adapter by reading the `probe.json` that lies beside the
weights: under the adapter's name it answers the trainer's own logprobs, under
the base's name the base's. Failures on demand are plain attributes.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class FakeEngine:
    """Use as a context manager; `url` is where it listens."""

    def __init__(self, base_model: str = "base") -> None:
        self.base_model = base_model
        self.loaded: dict[str, str] = {}
        self.events: list[tuple[str, str]] = []
        self.is_down = False
        self.is_serving_base = False  # adapters answer as the base would
        self.logprob_error = 0.0
        self.refuse_load: str | None = None
        self._answers: dict[tuple[str, tuple[int, ...]], float] = {}
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

            def do_GET(self) -> None:
                engine.answer(self, {})

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                engine.answer(self, json.loads(self.rfile.read(length)))

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FakeEngine":
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def restart(self) -> None:
        """What a restart of vLLM does: every adapter is forgotten."""
        self.loaded.clear()

    def answer(self, request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        status, content = (
            (503, {"error": {"message": "down"}})
            if self.is_down
            else self.route(request.path, body)
        )
        raw = json.dumps(content).encode()
        request.send_response(status)
        request.send_header("content-type", "application/json")
        request.send_header("content-length", str(len(raw)))
        request.end_headers()
        request.wfile.write(raw)

    def route(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/health":
            return 200, {}
        if path == "/v1/models":
            return 200, {"data": [{"id": name} for name in (self.base_model, *self.loaded)]}
        if path == "/v1/load_lora_adapter":
            return self.load(body["lora_name"], body["lora_path"])
        if path == "/v1/unload_lora_adapter":
            if self.loaded.pop(body["lora_name"], None) is None:
                return 404, {"error": {"message": "not loaded"}}
            self.events.append(("unload", body["lora_name"]))
            return 200, {}
        if path == "/v1/completions":
            (token,) = body["allowed_token_ids"]
            return self.complete(body["model"], body["prompt"], token)
        return 404, {"error": {"message": "no such route"}}

    def load(self, name: str, path: str) -> tuple[int, Any]:
        if self.refuse_load:
            return 500, {"error": {"message": self.refuse_load}}
        probes = Path(path) / "probe.json"
        if not probes.is_file():
            return 404, {"error": {"message": f"no adapter at {path}"}}
        self.loaded[name] = path
        self.events.append(("load", name))
        for probe in json.loads(probes.read_bytes())["probes"]:
            adapter = probe["base_logprobs" if self.is_serving_base else "logprobs"]
            prefix = tuple(probe["prompt_token_ids"])
            for token, ours, base in zip(
                probe["token_ids"], adapter, probe["base_logprobs"], strict=True
            ):
                prefix = (*prefix, token)
                self._answers[name, prefix] = ours + self.logprob_error
                self._answers[self.base_model, prefix] = base
        return 200, {}

    def complete(self, model: str, prompt: list[int], token: int) -> tuple[int, Any]:
        if model != self.base_model and model not in self.loaded:
            return 404, {"error": {"message": f"{model} does not exist"}}
        value = self._answers[model, (*prompt, token)]
        return 200, {"choices": [{"logprobs": {"token_logprobs": [value]}}]}
