"""No whole model reaches an engine unless the engine's base can take it, number for number."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from tests.trainer.delivery.test_gate import PLAN, restamp
from trainer.delivery.gate import Expected, check_adapter
from trainer.delivery.publish import publish
from trainer.delivery.weights import INDEX, Whole, header_of, tensors_of, weights_sha256
from trajectories.errors import AdapterError
from trajectories.resources import MANIFEST, AdapterManifest, Kind
from trajectories.settings import TrainerSettings

WEIGHTS = "model.safetensors"
FULL = PLAN.model_copy(update={"trainer": TrainerSettings(weights="full")})


def write_model(directory: Path, seed: int, dtype: type = np.float32) -> None:
    random = np.random.default_rng(seed)
    directory.mkdir(parents=True)
    weights = {
        name: random.normal(size=shape).astype(dtype)
        for name, shape in {"a.weight": (4, 8), "b.bias": (8,), "c.weight": (2, 2, 2)}.items()
    }
    save_file(weights, directory / WEIGHTS)
    (directory / "config.json").write_text('{"model_type": "tiny"}')


@pytest.fixture
def expected(tmp_path: Path) -> Expected:
    write_model(tmp_path / "base", 0)
    return Expected("base", "b" * 64, whole=Whole(tmp_path / "base", "float32"))


@pytest.fixture
def published(tmp_path: Path, expected: Expected) -> Path:
    trained = tmp_path / "trained"
    write_model(trained, 1)
    (trained / "probe.json").write_text('{"dtype": "float32", "probes": []}')
    (trained / "chat_template.jinja").write_text("{{ messages }}")
    (trained / "optimizer.pt").write_bytes(b"never to be seen by an engine")
    (trained / "tracker.json").write_text("{}")
    return publish(
        trained,
        tmp_path / "versions",
        plan=FULL,
        version=3,
        base_model="base",
        base_sha256="b" * 64,
        metrics={},
        reached=lambda _: None,
    )


def test_a_published_model_says_what_it_is_and_passes(published: Path, expected: Expected) -> None:
    manifest = check_adapter(published, expected)
    assert (manifest.kind, manifest.dtype, manifest.rank) == (Kind.FULL, "float32", None)
    assert set(manifest.files) == {WEIGHTS, "config.json", "probe.json", "chat_template.jinja"}
    assert published.name == f"policy-v3-{manifest.files[WEIGHTS][:8]}"
    assert manifest.lineage.trajectory_ids == ("default/t1",)


def change(directory: Path, alter: Callable[[dict[str, np.ndarray]], object]) -> None:
    weights = load_file(directory / WEIGHTS)
    alter(weights)
    save_file(weights, directory / WEIGHTS)
    manifest = AdapterManifest.from_json((directory / MANIFEST).read_bytes())
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    changed = manifest.model_copy(update={"tensors": shapes})
    (directory / MANIFEST).write_bytes(changed.to_json())
    restamp(directory)


def put(name: str, tensor: np.ndarray) -> Callable[[Path], None]:
    return lambda directory: change(directory, lambda weights: weights.update({name: tensor}))


def cut_off(directory: Path) -> None:
    raw = (directory / WEIGHTS).read_bytes()
    (directory / WEIGHTS).write_bytes(raw[:-4])
    restamp(directory)


def stray_shard(directory: Path) -> None:
    save_file({"z": np.ones(2, np.float32)}, directory / "more.safetensors")
    index = {"weight_map": dict.fromkeys(tensors_of(directory).keys() - {"z"}, WEIGHTS)}
    (directory / INDEX).write_bytes(orjson.dumps(index))
    manifest = AdapterManifest.from_json((directory / MANIFEST).read_bytes())
    files = {**manifest.files, "more.safetensors": "", INDEX: ""}
    (directory / MANIFEST).write_bytes(manifest.model_copy(update={"files": files}).to_json())
    restamp(directory)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: change(path, lambda w: w.pop("b.bias")), "1 tensors are missing"),
        (put("d.weight", np.ones(3, np.float32)), "not the base model's"),
        (put("b.bias", np.ones(9, np.float32)), r"b.bias has shape \(9,\)"),
        (put("b.bias", np.ones(8, np.float16)), "b.bias is F16, and trainer.dtype"),
        (put("b.bias", np.array([np.nan] * 8, np.float32)), "NaN or infinite"),
        (put("c.weight", np.full((2, 2, 2), -np.inf, np.float32)), "NaN or infinite"),
        (cut_off, "cut off"),
        (stray_shard, "does not know of more.safetensors"),
        (lambda path: (path / WEIGHTS).write_bytes(b"x"), "SHA-256 differs"),
        (lambda path: (path / "config.json").unlink(), "config.json is missing"),
        (lambda path: (path / "more.bin").write_bytes(b""), "does not list"),
    ],
    ids=[
        "missing",
        "more",
        "shape",
        "dtype",
        "nan",
        "infinite",
        "cut",
        "stray",
        "sha",
        "config",
        "pickle",
    ],
)
def test_a_model_that_the_engine_could_not_take_whole_is_refused(
    published: Path, expected: Expected, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(published)
    with pytest.raises(AdapterError, match=reason):
        check_adapter(published, expected)


def test_an_adapter_is_no_whole_model_and_the_other_way_round(
    published: Path, expected: Expected
) -> None:
    with pytest.raises(AdapterError, match=r"is full, and trainer.weights is lora"):
        check_adapter(published, Expected("base", "b" * 64))


def test_shards_are_read_by_their_index_and_have_one_digest(tmp_path: Path) -> None:
    where = {}
    for number in (1, 2):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({f"w{number}": np.ones(number, np.float32)}, tmp_path / file)
        where[f"w{number}"] = file
    (tmp_path / INDEX).write_bytes(orjson.dumps({"weight_map": where}))
    assert {n: t.shape for n, t in tensors_of(tmp_path).items()} == {"w1": (1,), "w2": (2,)}
    shas = dict(zip(where.values(), ("1" * 64, "2" * 64), strict=True))
    turned = dict(zip(shas, reversed(shas.values()), strict=True))
    assert weights_sha256(shas) != weights_sha256(turned)
    (tmp_path / INDEX).write_bytes(orjson.dumps({"weight_map": {"w9": file}}))
    with pytest.raises(AdapterError, match="leads nowhere"):
        tensors_of(tmp_path)


def test_bfloat16_is_looked_through_without_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from safetensors.torch import save_file as save

        from trainer.delivery.weights import check_finite

        for value, is_bad in ((1.5, False), (float("nan"), True), (float("-inf"), True)):
            tensor = torch.zeros(3, 5)
            tensor[2, 4] = value
            save({"w": tensor.bfloat16(), "n": torch.arange(3)}, tmp_path / WEIGHTS)
            header = header_of(tmp_path / WEIGHTS)
            check_finite("n", header["n"])
            if is_bad:
                with pytest.raises(AdapterError, match="w holds NaN"):
                    check_finite("w", header["w"])
            else:
                check_finite("w", header["w"])


@given(st.binary(max_size=200))
def test_no_bytes_are_taken_for_a_header(raw: bytes) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(raw)
        file.flush()
        try:
            found = header_of(Path(file.name))
        except AdapterError:
            return
        assert found == {}, "only an empty table of tensors can be that short"
