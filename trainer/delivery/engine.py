"""One vLLM, as the swap controller sees it: five routes over HTTP, and seven for full weights.

Only the trainer calls these; the gateway never forwards to them. An engine
that cannot be reached is told apart from one that says no: the first is
waited for, the second rejects the adapter.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import httpx2

from trajectories.errors import EngineError

CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
PROBES_AT_ONCE = 4


class EngineUnavailable(EngineError):
    """The engine does not answer, or not sensibly: try again later."""


class EngineBusy(EngineUnavailable):
    """It was reached, and has not answered in time."""


class Engine:
    """A synchronous client of one engine. Close it, or use it as a context manager."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx2.Client(
            base_url=self.url,
            headers=headers,
            timeout=httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            transport=transport,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def is_healthy(self) -> bool:
        """Whether the engine says that it can serve."""
        for _ in range(2):  # a server that failed a request may have closed the connection with it
            try:
                return self._client.get("/health", timeout=CONNECT_SECONDS).is_success
            except httpx2.HTTPError:
                continue
        return False

    def models(self) -> set[str]:
        """The names it serves: the base model and every loaded adapter."""
        answer = self._call("GET", "/v1/models")
        return {str(model["id"]) for model in answer["data"]}

    def load(self, name: str, path: str) -> None:
        """Load an adapter under a name that was never used; one already there is left alone."""
        if name not in self.models():
            body = {"lora_name": name, "lora_path": path}
            self._call("POST", "/v1/load_lora_adapter", body)

    def unload(self, name: str) -> None:
        """Unload an adapter; one that is not there is no error."""
        if name in self.models():
            self._call("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    # -- full weights: routes that only VLLM_SERVER_DEV_MODE=1 opens ----------------------

    def weights_name(self) -> str | None:
        """What it was last told that its weights are called; None: it has no such routes."""
        try:
            return str(self._call("GET", "/weight_info")["weight_version"])
        except EngineUnavailable:
            raise
        except (EngineError, KeyError, TypeError):
            return None

    def name_weights(self, name: str) -> None:
        """Have it remember a name for its weights, until it restarts."""
        self._call("POST", "/update_weight_version", {"new_version": name})

    def is_paused(self) -> bool:
        """Whether calls wait."""
        return bool(self._call("GET", "/is_paused")["is_paused"])

    def pause(self, seconds: float) -> None:
        """Let what runs end, and hold what comes; raises EngineBusy after `seconds`."""
        self._call("POST", "/pause?mode=wait", seconds=seconds)

    def resume(self) -> None:
        """Let calls go on; where none waits nothing happens."""
        self._call("POST", "/resume")

    def reload(self, path: str, seconds: float) -> None:
        """Read other weights of the same model from a directory; as `pause` where it hangs."""
        asked = {"method": "reload_weights", "kwargs": {"weights_path": path}}
        self._call("POST", "/collective_rpc", asked, seconds=seconds)

    def reset_caches(self) -> None:
        """Forget what other weights computed. Raises EngineError when it does not."""
        if not self._call("POST", "/reset_prefix_cache").get("success", True):
            raise EngineError(f"{self.url} keeps blocks of its prefix cache: calls still run")

    def logprobs(
        self, model: str, prompt_token_ids: Sequence[int], token_ids: Sequence[int]
    ) -> tuple[float, ...]:
        """What `model` gives `token_ids` after the prompt: raw logprobs in nats.

        One request a token, in which no other token is allowed: raw logprobs
        are taken before that mask. The one-request way, `prompt_logprobs`, is
        not safe here: under an adapter it kills vLLM 0.32 as soon as another
        request is in the same batch.
        """
        sequence = [*prompt_token_ids, *token_ids]
        starts = range(len(prompt_token_ids), len(sequence))
        with ThreadPoolExecutor(PROBES_AT_ONCE) as pool:
            return tuple(
                pool.map(lambda end: self._logprob(model, sequence[:end], sequence[end]), starts)
            )

    def _logprob(self, model: str, prompt_token_ids: Sequence[int], token_id: int) -> float:
        body = {
            "model": model,
            "prompt": prompt_token_ids,
            "allowed_token_ids": [token_id],
            "ignore_eos": True,
            "max_tokens": 1,
            "temperature": 1.0,
            "logprobs": 1,
        }
        answer = self._call("POST", "/v1/completions", body)
        try:
            return float(answer["choices"][0]["logprobs"]["token_logprobs"][0])
        except (KeyError, IndexError, TypeError) as error:
            raise EngineError(f"{self.url} gave no logprob of a token: is it vLLM?") from error

    def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, seconds: float = 0.0
    ) -> Any:
        """One request. Raises EngineUnavailable when it is down, EngineError when it says no."""
        limit = httpx2.Timeout(seconds or READ_SECONDS, connect=CONNECT_SECONDS)
        try:
            response = self._client.request(method, path, json=body, timeout=limit)
            if response.is_success:
                is_json = "json" in response.headers.get("content-type", "")
                return response.json() if is_json else response.text
        except httpx2.ReadTimeout as error:
            raise EngineBusy(f"{self.url} does not answer in time: {error!r}") from error
        except (httpx2.HTTPError, ValueError) as error:
            raise EngineUnavailable(f"{self.url} does not answer: {error!r}") from error
        message = f"{self.url}{path} answered {response.status_code}: {_reason(response)}"
        if response.status_code in (401, 403, 429, 502, 503, 504) or not self.is_healthy():
            raise EngineUnavailable(message)
        raise EngineError(message)


def _reason(response: httpx2.Response) -> str:
    try:
        body = response.json()
        error = body.get("error", body) if isinstance(body, dict) else body
        return str(error.get("message", error) if isinstance(error, dict) else error)[:500]
    except ValueError:
        return response.text[:500]
