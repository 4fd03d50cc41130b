"""Real vLLM: what is served is what was trained, and nothing else gets in."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import numpy as np
import orjson
import pytest
from safetensors.numpy import load_file, save_file

from tests.real.conftest import candidate
from trainer.base import fingerprint
from trainer.delivery.engine import Engine
from trainer.delivery.gate import WEIGHTS, Expected
from trainer.delivery.probe import compare, run_probe
from trainer.delivery.swap import MAX_LOADED, Swap
from trajectories.connection import Redis
from trajectories.errors import AdapterError, EngineError
from trajectories.registry import Registry
from trajectories.resources import PROBE, ProbeSet

# The first test of a session also makes the model and starts vLLM.
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

MakeAdapter = Callable[[], tuple[int, Path]]


@pytest.fixture
def client(engine) -> Iterator[Engine]:
    with Engine(engine.url) as client:
        yield client


@pytest.fixture
def swap(engine, client: Engine, redis: Redis, adapters_dir: Path) -> Swap:
    expected = Expected(
        base_model="calculator",
        base_sha256=fingerprint(engine.model, adapters_dir / "base.json"),
    )
    registry = Registry(redis, "policy", "calculator")
    return Swap([client], registry, expected=expected, drain_seconds=5)


def answer(engine, model: str) -> str:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "What is 3 plus 7?"}],
        "max_tokens": 30,
        "temperature": 0,
    }
    reply = httpx2.post(f"{engine.url}/v1/chat/completions", json=body, timeout=60)
    assert reply.status_code == 200
    return str(reply.json()["choices"][0]["message"])


def test_served_logprobs_equal_the_trainers_for_base_and_adapter(
    client: Engine, make_adapter: MakeAdapter
) -> None:
    _, path = make_adapter()
    probe_set = ProbeSet.from_json((path / PROBE).read_bytes())
    client.load(path.name, str(path))
    delivery = run_probe(
        client,
        model=path.name,
        base_model="calculator",
        probe_set=probe_set,
        tolerance=1e-4,
    )
    client.unload(path.name)
    assert delivery.adapter_error < 1e-4
    assert delivery.base_error < 1e-4
    assert delivery.served_shift > 0.01


def test_the_probe_does_not_harm_requests_that_run_beside_it(
    engine, client: Engine, make_adapter: MakeAdapter
) -> None:
    """prompt_logprobs under an adapter kills vLLM 0.32 when other requests are in the batch."""
    _, path = make_adapter()
    probe_set = ProbeSet.from_json((path / PROBE).read_bytes())
    client.load(path.name, str(path))
    stop = threading.Event()
    answered: list[str] = []

    def ask() -> None:
        while not stop.is_set():
            answered.append(answer(engine, "calculator"))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        delivery = run_probe(
            client, model=path.name, base_model="calculator", probe_set=probe_set, tolerance=1e-4
        )
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    client.unload(path.name)
    assert delivery.adapter_error < 1e-4
    assert len(set(answered)) == 1
    assert client.is_healthy()


def test_the_base_model_stays_itself_beside_as_many_adapters_as_are_ever_loaded(
    engine, client: Engine, make_adapter: MakeAdapter
) -> None:
    """vLLM's CPU kernels give base rows the last adapter slot's weights: it has to stay empty."""
    paths = [make_adapter()[1] for _ in range(MAX_LOADED)]
    for path in paths:
        client.load(path.name, str(path))
    probe = ProbeSet.from_json((paths[0] / PROBE).read_bytes()).probes[0]
    stop = threading.Event()

    def keep_busy(name: str) -> None:
        # Long answers, so that the base's requests always share a batch with them.
        body = {"model": name, "prompt": [5, 6, 7], "max_tokens": 300, "ignore_eos": True}
        while not stop.is_set():
            httpx2.post(f"{engine.url}/v1/completions", json=body, timeout=60)

    threads = [threading.Thread(target=keep_busy, args=(path.name,)) for path in paths]
    for thread in threads:
        thread.start()
    time.sleep(1)
    try:
        served = client.logprobs("calculator", probe.prompt_token_ids, probe.token_ids)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for path in paths:
        client.unload(path.name)
    assert max(abs(a - b) for a, b in zip(served, probe.base_logprobs, strict=True)) < 1e-4


def test_an_adapter_that_serves_the_base_is_refused_by_the_probe(
    client: Engine, make_adapter: MakeAdapter
) -> None:
    _, path = make_adapter()
    probe_set = ProbeSet.from_json((path / PROBE).read_bytes())
    base = [
        client.logprobs("calculator", p.prompt_token_ids, p.token_ids) for p in probe_set.probes
    ]
    with pytest.raises(AdapterError, match="serves the base model under the adapter's name"):
        compare(probe_set, base, base, 1e-3)


def truncated(path: Path) -> None:
    weights = path / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])


def not_a_number(path: Path) -> None:
    tensors = load_file(path / WEIGHTS)
    first = next(iter(tensors))
    tensors[first] = np.full_like(tensors[first], np.nan)
    save_file(tensors, path / WEIGHTS)
    restamp(path)


def wrong_rank(path: Path) -> None:
    tensors = {
        name: tensor[:4] if "lora_A" in name else tensor[:, :4].copy()
        for name, tensor in load_file(path / WEIGHTS).items()
    }
    save_file(tensors, path / WEIGHTS)
    restamp(path)


def wrong_base(path: Path) -> None:
    manifest = orjson.loads((path / "manifest.json").read_bytes())
    manifest["base_sha256"] = "0" * 64
    (path / "manifest.json").write_bytes(orjson.dumps(manifest))


def missing(path: Path) -> None:
    shutil.rmtree(path)


def restamp(path: Path) -> None:
    """Make the manifest agree with the changed file: the gate must look inside, too."""
    from trainer.durable import sha256_of

    manifest = orjson.loads((path / "manifest.json").read_bytes())
    manifest["files"][WEIGHTS] = sha256_of(path / WEIGHTS)
    (path / "manifest.json").write_bytes(orjson.dumps(manifest))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (not_a_number, "NaN or infinite|finite"),
        (truncated, "SHA-256 differs"),
        (wrong_rank, "rank|shape"),
        (wrong_base, "base"),
        (missing, "missing"),
    ],
    ids=["nan", "truncated", "wrong rank", "wrong base", "missing"],
)
def test_a_bad_adapter_is_refused_with_its_reason_and_the_old_version_serves(
    engine,
    swap: Swap,
    client: Engine,
    make_adapter: MakeAdapter,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    reason: str,
) -> None:
    version, good = make_adapter()
    swap.load(candidate(version, good))
    before = answer(engine, good.name)
    bad = tmp_path / f"policy-v{version + 1000}-00000000"
    shutil.copytree(good, bad)
    spoil(bad)
    with pytest.raises(AdapterError, match=reason):
        swap.load(candidate(version + 1000, bad))
    assert bad.name not in client.models()
    assert answer(engine, good.name) == before
    client.unload(good.name)


def test_the_engine_itself_says_no_in_words_and_lives(engine, client: Engine) -> None:
    with pytest.raises(EngineError, match="answered 404"):
        client.load("policy-v999-00000000", "/nowhere")
    assert client.is_healthy()
    assert answer(engine, "calculator")
