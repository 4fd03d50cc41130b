"""A fake engine: the routes the swap controller uses, over real HTTP, in a thread.

It "serves" an adapter by reading the `probe.json` that lies beside the
weights: under the adapter's name it answers the trainer's own logprobs, under
the base's name the base's. Its own weights are reloaded from a directory in
the same way. Failures on demand are plain attributes.
"""

import json
import threading
import time
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
        self.is_dev_mode = True
        self.weights_name = "default"
        self.weights: str | None = None  # the directory they were reloaded from
        self.is_paused = False
        self.pause_seconds = 0.0  # how long it takes to pause
        self.reload_seconds = 0.0  # and to reload
        self.is_deaf = False  # a reload is answered with 200, and does nothing
        self.dies_of: str | None = None  # reloading a directory of that name it is gone
        self.refuse_reload: list[str] = []  # one answer each, in turn, of 500
        self._answers: dict[tuple[str, tuple[int, ...]], float] = {}
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

            def do_GET(self) -> None:
                engine.answer(self, {})

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                engine.answer(self, json.loads(self.rfile.read(length) or b"{}"))

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
        """What a restart of vLLM does: adapters are forgotten, its weights are the first again."""
        self.loaded.clear()
        self.weights, self.weights_name = None, "default"
        self.is_paused = self.is_down = False

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
        if self.is_dev_mode:
            return self.change(path, body)
        return 404, {"error": {"message": "no such route"}}

    def change(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """The routes that exchange its own weights."""
        if path == "/weight_info":
            return 200, {"weight_version": self.weights_name}
        if path == "/update_weight_version":
            self.weights_name = body["new_version"]
            return 200, {"success": True}
        if path == "/is_paused":
            return 200, {"is_paused": self.is_paused}
        if path == "/pause?mode=wait":
            self.is_paused = True
            time.sleep(self.pause_seconds)
            self.events.append(("pause", ""))
            return 200, {"status": "paused"}
        if path == "/resume":
            self.is_paused = False
            self.events.append(("resume", ""))
            return 200, {"status": "resumed"}
        if path == "/reset_prefix_cache":
            return 200, {"success": True}
        if path == "/collective_rpc" and body["method"] == "reload_weights":
            return self.reload(body["kwargs"]["weights_path"])
        return 404, {"error": {"message": "no such route"}}

    def reload(self, path: str) -> tuple[int, Any]:
        assert self.is_paused, "weights are exchanged under running calls"
        name = Path(path).name
        time.sleep(self.reload_seconds)
        if self.dies_of is not None and name.startswith(self.dies_of):
            self.is_down = True
            return 500, {"error": {"message": "engine died"}}
        if self.refuse_reload:
            self.events.append(("refused", name))
            return 500, {"error": {"message": self.refuse_reload.pop(0)}}
        self.events.append(("reload", name))
        if not self.is_deaf:
            self.weights = path
        return 200, {"results": [None]}

    def own(self, prefix: tuple[int, ...]) -> float:
        """What its own weights make of the last token."""
        probes = Path(self.weights or "") / "probe.json"
        if not probes.is_file():
            return -0.5 if len(prefix) == 3 else -0.6  # as fake_round.py has the base
        (probe,) = json.loads(probes.read_bytes())["probes"]
        at = len(prefix) - len(probe["prompt_token_ids"]) - 1
        return float(probe["logprobs"][at]) + self.logprob_error

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
        if (model, (*prompt, token)) not in self._answers:
            value = self.own((*prompt, token))
            return 200, {"choices": [{"logprobs": {"token_logprobs": [value]}}]}
        value = self._answers[model, (*prompt, token)]
        return 200, {"choices": [{"logprobs": {"token_logprobs": [value]}}]}
