"""An engine that says no is told apart from one that is not there."""

import httpx2
import pytest

from trainer.delivery.engine import Engine, EngineUnavailable
from trajectories.errors import EngineError


def test_a_server_that_hangs_up_with_its_error_is_not_taken_for_dead() -> None:
    """Uvicorn closes the connection of a request whose handler failed."""
    looks: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path != "/health":
            return httpx2.Response(500, json={"error": "size mismatch"})
        looks.append(request.url.path)
        if len(looks) == 1:
            raise httpx2.RemoteProtocolError("the server disconnected", request=request)
        return httpx2.Response(200)

    with Engine("http://engine", transport=httpx2.MockTransport(answer)) as engine:
        with pytest.raises(EngineError, match="size mismatch") as error:
            engine.reload("/weights", 1.0)
    assert not isinstance(error.value, EngineUnavailable)


def test_an_engine_without_the_routes_of_full_weights_says_nothing_of_its_weights() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200 if request.url.path == "/health" else 404, json={})

    with Engine("http://engine", transport=httpx2.MockTransport(answer)) as engine:
        assert engine.weights_name() is None
