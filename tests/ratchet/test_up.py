"""The vLLM that `ratchet up` starts: ready for adapters, or for other weights."""

import pytest

from ratchet import up
from trajectories.settings import EngineSettings, Settings, TrainerSettings


@pytest.mark.parametrize("version", ["0.32.0", "0.32.0+cpu"])
def test_it_takes_adapters_or_other_weights_as_the_trainer_makes_them(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "vllm_version", lambda: version)
    engine = EngineSettings(serve=True, model="m")
    spec = up.engine_spec(Settings(engine=engine), {})
    assert "--enable-lora" in spec.command
    assert "VLLM_SERVER_DEV_MODE" not in spec.environment, "it opens more than anybody needs"
    whole = up.engine_spec(Settings(engine=engine, trainer=TrainerSettings(weights="full")), {})
    assert "--enable-lora" not in whole.command
    assert ("--enforce-eager" in whole.command) is ("cpu" in version)
    assert whole.environment["VLLM_SERVER_DEV_MODE"] == "1"
