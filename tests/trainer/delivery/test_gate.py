"""No adapter reaches an engine unless every file, shape and number is what was published."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest
from safetensors.numpy import load_file, save_file

from tests.trainer.fake_round import TENSOR, write_trained
from trainer.delivery.gate import Expected, check_adapter
from trainer.delivery.publish import highest_version, publish, published
from trainer.durable import sha256_of
from trainer.runs import Plan
from trajectories.errors import AdapterError
from trajectories.resources import MANIFEST, AdapterManifest
from trajectories.settings import TrainerSettings

WEIGHTS = "adapter_model.safetensors"
EXPECTED = Expected("base", "b" * 64, rank=4, target_modules=frozenset({"q_proj"}))
PLAN = Plan(
    run_id="run_1",
    policy="policy",
    algorithm="grpo",
    base_path="/base",
    parent=0,
    parent_path=None,
    optimizer_path=None,
    trainer=TrainerSettings(rank=4),
    refs=("default/t1",),
    excluded={"stale": 2},
    reward_sources={"feedback:human": 1},
)


def publish_one(tmp_path: Path, reached: Callable[[str], None] = lambda _: None) -> Path:
    write_trained(tmp_path / "trained", rank=4, seed=1)
    return publish(
        tmp_path / "trained",
        tmp_path / "adapters",
        plan=PLAN,
        version=3,
        base_model="base",
        base_sha256="b" * 64,
        metrics={"loss": 0.5},
        reached=reached,
    )


def restamp(adapter: Path) -> None:
    """Make the manifest fit the files again: what is wrong is then inside them."""
    manifest = AdapterManifest.from_json((adapter / MANIFEST).read_bytes())
    files = {name: sha256_of(adapter / name) for name in manifest.files}
    (adapter / MANIFEST).write_bytes(manifest.model_copy(update={"files": files}).to_json())


def change_weights(adapter: Path, side: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    weights = load_file(adapter / WEIGHTS)
    weights[TENSOR.format(side)] = np.ascontiguousarray(change(weights[TENSOR.format(side)]))
    save_file(weights, adapter / WEIGHTS)
    restamp(adapter)


def truncate(adapter: Path) -> None:
    path = adapter / WEIGHTS
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(adapter: Path) -> None:
    raw = bytearray((adapter / WEIGHTS).read_bytes())
    raw[-3] ^= 1
    (adapter / WEIGHTS).write_bytes(raw)


def truncate_and_restamp(adapter: Path) -> None:
    truncate(adapter)
    restamp(adapter)


def poison(value: float) -> Callable[[Path], None]:
    def spoil(adapter: Path) -> None:
        def change(tensor: np.ndarray) -> np.ndarray:
            tensor[1, 1] = value
            return tensor

        change_weights(adapter, "A", change)

    return spoil


def config_of(**changes: object) -> Callable[[Path], None]:
    def spoil(adapter: Path) -> None:
        path = adapter / "adapter_config.json"
        path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), **changes}))
        restamp(adapter)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (truncate, "not what was published"),
        (flip_a_bit, "not what was published"),
        (truncate_and_restamp, "cannot be read"),
        (poison(float("nan")), "NaN or infinite"),
        (poison(float("inf")), "NaN or infinite"),
        (poison(1e6), "norm 1e\\+06"),
        (lambda a: change_weights(a, "A", lambda t: t[:2]), "has shape"),
        (lambda a: (a / MANIFEST).unlink(), "never fully published"),
        (lambda a: (a / "probe.json").unlink(), "probe.json is missing"),
        (lambda a: (a / "adapter_model.bin").write_bytes(b"x"), "only .safetensors"),
        (config_of(r=8), "wrong rank"),
        (config_of(target_modules=["v_proj"]), "wrong target modules"),
        (config_of(modules_to_save=["lm_head"]), "more than plain LoRA"),
    ],
)
def test_a_bad_adapter_is_refused_with_the_right_sentence(
    spoil: Callable[[Path], object], sentence: str, tmp_path: Path
) -> None:
    adapter = publish_one(tmp_path)
    check_adapter(adapter, EXPECTED)
    spoil(adapter)
    with pytest.raises(AdapterError, match=sentence):
        check_adapter(adapter, EXPECTED)


@pytest.mark.parametrize(
    ("expected", "sentence"),
    [
        (Expected("other", "b" * 64), "trained on 'base', serving 'other'"),
        (Expected("base", "c" * 64), "have changed since"),
        (Expected("base", "b" * 64, rank=8), "the adapter has 4, trainer.rank is 8"),
        (Expected("base", "b" * 64, target_modules=frozenset("q")), "wrong target modules"),
    ],
)
def test_an_adapter_for_something_else_is_refused(
    expected: Expected, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(AdapterError, match=sentence):
        check_adapter(publish_one(tmp_path), expected)


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="is missing"):
        check_adapter(tmp_path / "nowhere", EXPECTED)


def test_a_published_adapter_says_where_it_comes_from(tmp_path: Path) -> None:
    adapter = publish_one(tmp_path)
    manifest = check_adapter(adapter, EXPECTED)
    assert adapter.name == f"policy-v3-{sha256_of(adapter / WEIGHTS)[:8]}"
    assert manifest.lineage.trajectory_ids == ("default/t1",)
    assert manifest.lineage.reward_sources == {"feedback:human": 1}
    assert manifest.lineage.excluded == {"stale": 2}
    assert manifest.lineage.config["rank"] == 4
    assert manifest.tensors[TENSOR.format("A")] == (4, 8)
    assert highest_version(tmp_path / "adapters", "policy") == 3


def test_a_kill_while_publishing_leaves_nothing_or_everything(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    steps: list[str] = []
    publish_one(tmp_path / "whole", steps.append)
    assert len(steps) == 5
    for step in steps:
        work = tmp_path / step

        def kill(name: str, at: str = step) -> None:
            if name == at:
                raise Killed

        with pytest.raises(Killed):
            publish_one(work, kill)
        visible = published(work / "adapters")
        assert len(visible) == (step == "publish_renamed")
        for adapter in visible:
            check_adapter(adapter, EXPECTED)
        adapter = publish_one(work)
        check_adapter(adapter, EXPECTED)
        assert published(work / "adapters") == [adapter]
