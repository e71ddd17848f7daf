from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import checkpoint
from models.checkpoint import MANIFEST, WEIGHTS, CheckpointError
from models.inputs.text import TOKENIZER
from search.quality.table import TABLE
from tests.tiny import tiny_model, write_checkpoint
from tests.tiny_text import write_text_checkpoint, write_text_weights


def edit_manifest(folder: Path, change: Callable[[dict[str, object]], None]) -> None:
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def rewrite_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS)
    checkpoint.cover(folder, WEIGHTS)


def test_loading_gives_back_the_saved_model_in_half_precision(tmp_path: Path) -> None:
    loaded = checkpoint.load(write_checkpoint(tmp_path / "tiny"))
    assert loaded.manifest.name == loaded.model.name == "tiny"
    original = tiny_model()
    assert loaded.model.config == original.config
    for name, tensor in original.state_dict().items():
        found = loaded.model.state_dict()[name]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, tensor.half().float(), atol=0, rtol=0)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = write_checkpoint(tmp_path / "one"), write_checkpoint(tmp_path / "two")
    for name in (MANIFEST, WEIGHTS, TABLE):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_truncated_weights_name_the_tensor(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"model.safetensors: truncated; tensor 'stem"):
        checkpoint.load(folder)


def test_altered_bytes_are_noticed(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    for name in (WEIGHTS, TABLE):
        path = folder / name
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(CheckpointError, match=f"{name}: altered.*SHA-256"):
            checkpoint.load(folder)
        path.write_bytes(good)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("stem.weight"), "tensor 'stem.weight' is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "tensor 'extra' is not part of"),
        (
            lambda state: state.update({"stem.weight": torch.zeros(8, 3, 3, 3)}),
            r"'stem.weight' has shape \[8, 3, 3, 3\], the configuration needs \[32, 3, 3, 3\]",
        ),
    ],
    ids=["missing", "extra", "shape"],
)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    rewrite_weights(folder, change)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(folder)


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (exec, ("raise SystemExit('a pickle was run')",))


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_under_the_name_of_the_weights_is_refused_and_not_run(
    tmp_path: Path, how: str
) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    if how == "pickle":
        (folder / WEIGHTS).write_bytes(pickle.dumps(Bomb()))
    else:
        torch.save({"weights": Bomb()}, folder / WEIGHTS)
    checkpoint.cover(folder, WEIGHTS)
    with pytest.raises(CheckpointError, match="pickles are refused"):
        checkpoint.load(folder)


def test_a_pickle_in_the_manifest_or_in_place_of_it_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    torch.save(tiny_model().state_dict(), folder / "weights.pt")
    checkpoint.cover(folder, "weights.pt")
    with pytest.raises(CheckpointError, match=r"weights\.pt: pickles are refused"):
        checkpoint.load(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match=r"does not exist; weights\.pt is a pickle"):
        checkpoint.load(folder)


def nested(depth: int) -> dict[str, object]:
    found: dict[str, object] = {}
    for _ in range(depth):
        found = {"tasks": found}
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(family="resnet"), "unknown family 'resnet'; one of"),
        (lambda m: m.update(schema_version=2), "schema_version: Input should be 1"),
        (lambda m: m.update(surprise=1), "surprise: Extra inputs are not permitted"),
        (lambda m: m.update(name="../x"), "name: String should match pattern"),
        (lambda m: m.update(name="a//b"), "name: String should match pattern"),
        (lambda m: m.update(name="a/../b"), "name: String should match pattern"),
        (lambda m: m.update(name="a/"), "name: String should match pattern"),
        (lambda m: m.update(name="a" * 101), "name: String should have at most 100 characters"),
        (lambda m: m["files"].pop(WEIGHTS), f"files does not name {WEIGHTS}"),
        (lambda m: m["files"].update({"../x": m["files"][WEIGHTS]}), "String should match"),
        (lambda m: m["config"].update(decoder_channels=20), "20 channels x width 0.25"),
        (lambda m: m["config"].update(widht=1), "widht: Unexpected keyword argument"),
        (lambda m: m["config"]["input"].pop("mean"), "input.mean: Field required"),
        (lambda m: m["config"].update(channels=[32, 10**6]), r"the configuration needs \[10{6}"),
        (lambda m: m["config"].update(channels=[32, 10**18]), "manifest.json: "),
        (lambda m: m["config"].update(blocks=[1, 10**9]), "blocks=1000000000 must be 1 to 1000"),
        (lambda m: m["config"].update(strides=[2, 0]), "strides=0 must be 1 to 64"),
        (lambda m: m["config"].update(widths=[]), "manifest.json: "),
        (lambda m: m["config"].update(decoder_channels=1e400), "not JSON: Infinity is no number"),
        (lambda m: m.update(config=nested(500)), "manifest.json: "),
        (lambda m: m.update(files=[]), "files: Input should be a valid dictionary"),
    ],
    ids=[
        "family",
        "schema",
        "extra",
        "name",
        "two slashes",
        "up",
        "last slash",
        "long name",
        "weights",
        "path",
        "config",
        "unknown",
        "nested",
        "huge",
        "beyond",
        "endless",
        "stride",
        "widths",
        "infinite",
        "deep",
        "files",
    ],
)
def test_a_bad_manifest_names_the_field(
    tmp_path: Path, change: Callable[[dict[str, object]], None], message: str
) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    edit_manifest(folder, change)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(folder)


@pytest.mark.parametrize("name", [WEIGHTS, TABLE])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} does not exist"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        b"\xff" * 64,
        (8).to_bytes(8, "little") + b"not json",
        b"\x02" + b"\0" * 7 + b"[]",
    ],
    ids=["empty", "short", "huge-header", "not-json", "list"],
)
def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    (folder / WEIGHTS).write_bytes(content)
    checkpoint.cover(folder, WEIGHTS)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        checkpoint.load(folder)


def test_a_header_without_offsets_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    header = b'{"stem.weight": {"dtype": "F16"}}'
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
    checkpoint.cover(folder, WEIGHTS)
    with pytest.raises(CheckpointError, match=r"'stem\.weight' has no valid data_offsets"):
        checkpoint.load(folder)


def test_a_header_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    header = b'{"a":' * 100_000
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
    checkpoint.cover(folder, WEIGHTS)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        checkpoint.load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_named(tmp_path: Path, value: float) -> None:
    folder = write_checkpoint(tmp_path / "tiny")

    def spoil(state: dict[str, torch.Tensor]) -> None:
        state["stem.weight"][3, 1] = value

    rewrite_weights(folder, spoil)
    with pytest.raises(CheckpointError, match=r"'stem\.weight' holds a value that is not finite"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("ffn", 10**9, r"has shape \[24, 16\], the configuration needs \[1000000000, 16\]"),
        ("ffn", 1e9, r"has shape \[24, 16\], the configuration needs \[1000000000, 16\]"),
        ("ffn", 10**30, "manifest.json: "),
        ("layers", 10**9, "layers=1000000000 must be at most 1000"),
        ("max_positions", 10**9, "max_positions=1000000000 must be at most 1048576"),
        ("vocab_size", 10**9, r"the configuration needs \[1000000000, 16\]"),
        ("head_dim", 10**9, "the configuration needs"),
    ],
)
def test_a_size_beyond_all_weights_takes_no_memory(
    tmp_path: Path, field: str, value: float, message: str
) -> None:
    write_text_weights(folder := tmp_path / "text")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["config"]["encoder"][field] = value
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update(model={}),
        lambda t: t["model"].update(type="Unheard"),
        lambda t: t["model"].pop("vocab"),
        lambda t: t["model"].pop("unk_token"),
        lambda t: t["model"]["vocab"].pop("[UNK]"),
        lambda t: t["model"]["vocab"].update({"w0": -1}),
        lambda t: t.update(added_tokens=[{"id": 10**9, "content": "x"}]),
        lambda t: t["post_processor"].update(special_tokens={}),
    ],
)
def test_a_tokenizer_that_cannot_read_every_text_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    write_text_weights(folder := tmp_path / "text")
    tokenizer = json.loads((folder / TOKENIZER).read_text())
    change(tokenizer)
    (folder / TOKENIZER).write_text(json.dumps(tokenizer))
    checkpoint.cover(folder, TOKENIZER)
    with pytest.raises(CheckpointError, match=TOKENIZER):
        checkpoint.load(folder)


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_others_may_read_what_the_umask_lets_them(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        folder = write_text_checkpoint(tmp_path / "text")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == dict.fromkeys((MANIFEST, WEIGHTS, TABLE, TOKENIZER), 0o666 & ~mask)


LOADING = """
import sys
from pathlib import Path
from models import checkpoint

checkpoint.load(Path(sys.argv[1]))
print("torch._dynamo" in sys.modules)
"""


def test_loading_does_not_import_the_compiler_of_torch(tmp_path: Path) -> None:
    """Drawing random weights on the meta device, to throw them away, does; it takes seconds."""
    write_text_weights(folder := tmp_path / "text")
    command = [sys.executable, "-c", LOADING, str(folder)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    assert ended.stdout == "False\n"


def test_weights_stay_what_they_were_when_the_file_changes(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    rewrite_weights(folder, lambda state: state.update({k: v.float() for k, v in state.items()}))
    model = checkpoint.load(folder).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with (folder / WEIGHTS).open("r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(bytes(64))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], atol=0, rtol=0)
