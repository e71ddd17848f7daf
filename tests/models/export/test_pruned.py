"""Cuts of transformers, exported, against ONNX Runtime, sentence-transformers and plain torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from models.export import write
from models.families.pruned import Pruned
from models.inputs.text import TextInput
from models.nn.ragged import Ragged
from tests.conformance.fixtures.pruned import tiny_pruned
from tests.models.export.test_text import FACTS, TEXTS, by_library, by_onnx, close
from tests.tiny_text import write_tokenizer
from tests.walking import answers_of


def made(folder: Path, architecture: str) -> Pruned:
    """Return a model with random weights and a tokenizer."""
    write_tokenizer(folder)
    model = tiny_pruned(architecture)
    model.base.take(TextInput.load(model.base.config.text, folder), folder)
    return model


def served(model: Pruned, keep: float, dim: int) -> Tensor:
    rows = [model.base.text.encode(text) for text in TEXTS]
    subnet = model.space.check({"keep": keep, "dim": dim})
    plan = model.plan(subnet, {"text": (max(map(len, rows)),)})
    (found,) = answers_of(plan, {"text": Ragged.pack(rows)}).values()
    return found


@pytest.mark.parametrize("keep", [0.45, 1.0])
def test_a_narrower_cut_is_a_public_folder_with_zeros_for_what_its_layers_lack(
    tmp_path: Path, keep: float
) -> None:
    model = made(tmp_path / "model", "post")
    out, subnet = tmp_path / "out", model.space.check({"keep": keep, "dim": 4})
    remarks = write(model, subnet, out, FACTS)
    expected = served(model, keep, 4)
    close(by_onnx(out, TEXTS), expected)
    close(by_library(out, TEXTS), expected)
    assert json.loads((out / "config.json").read_text())["model_type"] == "bert"
    assert any("zeros" in remark for remark in remarks) == (keep < 1)
    state = load_file(out / "model.safetensors")
    down = state["encoder.layer.0.output.dense.weight"]
    assert bool((down[:, 5:] == 0).all()) == (keep < 1)


def rebuilt(folder: Path, rows: list[Tensor]) -> Tensor:
    """Run a post-norm encoder with mean pooling as the folder's card describes it."""
    config = json.loads((folder / "config.json").read_text())
    state, encoder = load_file(folder / "model.safetensors"), config["encoder"]
    hidden, size = encoder["hidden"], encoder["head_dim"]

    def norm(name: str, x: Tensor) -> Tensor:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return F.layer_norm(x, (hidden,), weight, bias, encoder["norm_eps"])

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    found = []
    for row in rows:
        table = state["embedding.position.weight"]
        x = norm("embedding.norm", state["embedding.token.weight"][row] + table[: len(row)])
        for i, form in enumerate(config["layers"]):
            place = f"layers.{i}"
            if form["kind"] == "linear":
                x = norm(f"{place}.ffn_norm", linear(f"{place}.linear", x))
                continue
            weight, bias = (state[f"{place}.attention.qkv{end}"] for end in ("", "_bias"))
            rows_of = torch.einsum("th,grh->gtr", x, weight) + bias[:, None]
            q, k, v = (rows_of[..., part * size : (part + 1) * size] for part in range(3))
            heads = (q @ k.transpose(1, 2) / size**0.5).softmax(2) @ v
            x = x + linear(f"{place}.attention.out", heads.transpose(0, 1).flatten(1))
            x = norm(f"{place}.attention_norm", x)
            inner = F.gelu(linear(f"{place}.ffn.up", x))
            x = norm(f"{place}.ffn_norm", x + linear(f"{place}.ffn.down", inner))
        found.append(x.mean(0))
    vectors = torch.stack(found)[:, : config["answer"]["dim"]]
    return F.normalize(vectors, dim=1)


@pytest.mark.parametrize("keep", [0.2, 0.5])
def test_a_cut_with_linear_layers_is_safetensors_that_a_plain_program_runs(
    tmp_path: Path, keep: float
) -> None:
    model = made(tmp_path / "model", "post")
    out, subnet = tmp_path / "out", model.space.check({"keep": keep, "dim": 4})
    remarks = write(model, subnet, out, FACTS)
    expected = served(model, keep, 4)
    close(by_onnx(out, TEXTS), expected)
    close(rebuilt(out, [model.base.text.encode(text) for text in TEXTS]), expected)
    assert any("one linear map" in remark for remark in remarks)


def test_a_cut_whose_layers_gain_biases_is_not_written_in_a_layout_without(tmp_path: Path) -> None:
    model = made(tmp_path / "model", "gated")
    out, subnet = tmp_path / "out", model.space.check({"keep": 0.45, "dim": 4})
    remarks = write(model, subnet, out, FACTS)
    assert any("has biases in its cut" in remark for remark in remarks)
    assert "layers.0.attention.out.bias" in load_file(out / "model.safetensors")
    close(by_onnx(out, TEXTS), served(model, 0.45, 4))
