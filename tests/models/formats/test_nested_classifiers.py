"""DynaBERT, ElasticBERT and MatFormer classifiers against a plain BERT, step by step."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from models import checkpoint
from models.families.headed import Headed
from models.formats import FormatError, write
from models.formats.nested_classifiers import (
    kept_layers,
    read_dynabert,
    read_elasticbert,
    read_matformer,
    read_shared_exits,
)
from models.nn.ragged import Ragged
from models.space import Subnet
from tests.models.formats.public import change_json
from tests.models.formats.test_sequence_classifiers import write_classifier
from tests.walking import answers_of

LAYERS, HEADS, UNITS, HIDDEN = 8, 4, 24, 16
SIZES: dict[str, Any] = {
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": UNITS,
    "hidden_size": HIDDEN,
}
TEXTS = ("w1 w2 w3", "w4", "w5 w6 w7 w8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_classifier(tmp_path, "bert", **SIZES)
    return tmp_path


def plain(
    tensors: dict[str, Tensor],
    ids: Sequence[int],
    layers: Sequence[int],
    heads: int,
    units: int,
    head: tuple[str, str] = ("bert.pooler.dense", "classifier"),
    prefix: str = "bert.",
) -> Tensor:
    """Answer as the papers say: leading heads and units of some layers; biases back are whole."""
    eps = 1e-12

    def at(name: str) -> Tensor:
        return tensors[prefix + name]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (HIDDEN,), at(f"{name}.weight"), at(f"{name}.bias"), eps)

    size = HIDDEN // HEADS
    x = at("embeddings.word_embeddings.weight")[list(ids)]
    x = x + at("embeddings.position_embeddings.weight")[: len(ids)]
    x = norm(x + at("embeddings.token_type_embeddings.weight")[0], "embeddings.LayerNorm")
    for i in layers:
        own, inner = f"encoder.layer.{i}", heads * size
        q, k, v = (
            F.linear(
                x,
                at(f"{own}.attention.self.{name}.weight")[:inner],
                at(f"{own}.attention.self.{name}.bias")[:inner],
            ).view(len(ids), heads, size)
            for name in ("query", "key", "value")
        )
        weights = (torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(size)).softmax(-1)
        said = torch.einsum("hqk,khd->qhd", weights, v).flatten(1)
        out = f"{own}.attention.output"
        y = F.linear(said, at(f"{out}.dense.weight")[:, :inner], at(f"{out}.dense.bias"))
        x = norm(x + y, f"{out}.LayerNorm")
        up, down = f"{own}.intermediate.dense", f"{own}.output"
        y = F.gelu(F.linear(x, at(f"{up}.weight")[:units], at(f"{up}.bias")[:units]))
        y = F.linear(y, at(f"{down}.dense.weight")[:, :units], at(f"{down}.dense.bias"))
        x = norm(x + y, f"{down}.LayerNorm")
    first, last = head
    y = torch.tanh(F.linear(x[0], tensors[f"{first}.weight"], tensors[f"{first}.bias"]))
    return F.linear(y, tensors[f"{last}.weight"], tensors[f"{last}.bias"])


def answer(model: Headed, subnet: Subnet, text: str) -> Tensor:
    ids = model.text.encode(text)
    plan = model.plan(subnet, {"text": (len(ids),)})
    return answers_of(plan, {"text": Ragged.pack([ids])})["label"][0]


def same(model: Headed, subnet: Subnet, expected: Any) -> None:
    for text in TEXTS:
        ids = model.text.encode(text).tolist()
        torch.testing.assert_close(answer(model, subnet, text), expected(ids), atol=1e-4, rtol=0)


def test_depth_is_not_always_a_prefix_of_the_layers(folder: Path) -> None:
    """Trap: DynaBERT keeps floor(i / m), not the first ones."""
    assert kept_layers(12, 0.5) == (0, 2, 4, 6, 8, 10)
    assert kept_layers(12, 0.75) == (0, 1, 2, 4, 5, 6, 8, 9, 10)
    tensors = load_file(folder / "model.safetensors")
    model = read_dynabert(folder, "tiny")
    whole = model.space.largest
    for depth, layers in ((4, (0, 2, 4, 6)), (6, (0, 1, 2, 4, 5, 6)), (8, range(8))):
        same(
            model,
            whole | {"depth": depth},
            lambda ids, layers=layers: plain(tensors, ids, tuple(layers), HEADS, UNITS),
        )
    first = plain(tensors, model.text.encode("w1").tolist(), range(4), HEADS, UNITS)
    assert (answer(model, whole | {"depth": 4}, "w1") - first).abs().max() > 1e-2


@pytest.mark.parametrize(("place", "heads"), [(0, 1), (1, 2), (2, 3), (3, 4)])
def test_a_width_is_of_heads_and_units_at_once_and_biases_back_stay_whole(
    folder: Path, place: int, heads: int
) -> None:
    """Trap: a bias on the side that is not cut is never sliced."""
    tensors = load_file(folder / "model.safetensors")
    model = read_dynabert(folder, "tiny")
    config = model.config
    subnet = model.space.largest | {"heads": config.heads[place], "ffn": config.ffn[place]}
    layers = range(LAYERS)
    same(model, subnet, lambda ids: plain(tensors, ids, layers, heads, 6 * heads))
    mixed = model.space.largest | {"heads": config.heads[0]}
    with pytest.raises(ValueError, match="heads"):
        model.space.check(mixed if place == 3 else model.space.largest | {"ffn": config.ffn[0]})


def test_widths_are_rounded_to_whole_heads_and_units_cut_off_after_the_point(
    tmp_path: Path,
) -> None:
    """Trap: Python rounds halves to even, and the units follow the heads' share."""
    write_classifier(tmp_path, "bert", **{**SIZES, "intermediate_size": 26})
    model = read_dynabert(tmp_path, "tiny", widths=(0.4, 0.625, 1.0))
    assert model.config.heads == (0.5, 0.5, 1.0)[1:]  # 1.6 of 4 heads are 2, and so are 2.5


def test_a_width_without_a_head_is_refused(folder: Path) -> None:
    with pytest.raises(FormatError, match=r"widths=\[0.1, 1.0\] of 4 heads; allowed: those that"):
        read_dynabert(folder, "tiny", widths=(0.1, 1.0))


@pytest.mark.parametrize(("share", "units"), [(0.125, 3), (0.25, 6), (0.5, 12), (1.0, 24)])
def test_a_matformer_slice_is_the_first_units_of_every_layer(
    folder: Path, share: float, units: int
) -> None:
    tensors = load_file(folder / "model.safetensors")
    model = read_matformer(folder, "tiny")
    subnet = model.space.largest | {"ffn": share}
    same(model, subnet, lambda ids: plain(tensors, ids, range(LAYERS), HEADS, units))


def test_each_exit_of_an_elasticbert_has_its_own_pooler_and_classifier(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    generator = torch.Generator().manual_seed(3)
    found = {
        name.replace("bert.", "elasticbert.", 1): tensor
        for name, tensor in tensors.items()
        if not name.startswith(("bert.pooler", "classifier"))
    }
    for i in range(LAYERS):
        for name, shape in (
            (f"elasticbert.encoder.pooler.{i}.dense", (HIDDEN, HIDDEN)),
            (f"classifiers.{i}", (3, HIDDEN)),
        ):
            found[f"{name}.weight"] = torch.randn(shape, generator=generator) * 0.3
            found[f"{name}.bias"] = torch.randn(shape[:1], generator=generator) * 0.3
    save_file(found, path)
    sizes = {"num_output_layers": LAYERS, "max_output_layers": LAYERS}
    change_json(folder / "config.json", model_type="elasticbert", **sizes)
    model = read_elasticbert(folder, "tiny")
    write(model, folder / "ours", torch.float32)
    for one in (model, checkpoint.load(folder / "ours").model):
        for depth in (1, 3, LAYERS):
            head = (f"elasticbert.encoder.pooler.{depth - 1}.dense", f"classifiers.{depth - 1}")
            same(
                one,
                one.space.largest | {"depth": depth},
                lambda ids, depth=depth, head=head: plain(
                    found, ids, range(depth), HEADS, UNITS, head, "elasticbert."
                ),
            )
    change_json(folder / "config.json", num_output_layers=2)
    with pytest.raises(FormatError, match="num_output_layers=2; allowed: 8"):
        read_elasticbert(folder, "tiny")


def test_what_is_kept_survives_a_checkpoint(folder: Path) -> None:
    model = read_dynabert(folder, "tiny")
    write(model, folder / "ours", torch.float32)
    loaded = checkpoint.load(folder / "ours").model
    assert json.loads((folder / "ours" / "manifest.json").read_text())["config"]["tied"] is True
    for subnet in model.space:
        assert torch.equal(answer(loaded, subnet, "w1 w2"), answer(model, subnet, "w1 w2"))


def test_layers_that_cannot_be_kept_are_refused(folder: Path) -> None:
    model = read_dynabert(folder, "tiny")
    for kept, message in (
        (((0, 1), (0, 1, 2, 3, 4, 5), tuple(range(8))), "kept=.0, 1. must be 4 of the layers"),
        (((0, 1, 2, 9), (0, 1, 2, 3, 4, 5), tuple(range(8))), "must be 4 of the layers"),
    ):
        with pytest.raises(ValueError, match=message):
            type(model.config)(**{**vars(model.config), "kept": kept})


def test_exits_share_the_one_head_and_widths_are_the_first_heads_and_units(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    model = read_shared_exits(folder, "tiny", depths=(2, 5, 8), heads=(0.5, 1.0), ffn=(0.25, 1.0))
    for depth in (2, 5, 8):
        for heads, units in ((HEADS, UNITS), (HEADS // 2, UNITS), (HEADS // 2, UNITS // 4)):
            same(
                model,
                Subnet({"depth": depth, "heads": heads / HEADS, "ffn": units / UNITS}),
                lambda ids, depth=depth, heads=heads, units=units: plain(
                    tensors, ids, range(depth), heads, units
                ),
            )
    with pytest.raises(ValueError, match=r"depths=\[2, 5\] must be positive, ascend and end at 8"):
        read_shared_exits(folder, "tiny", depths=(2, 5))
    change_json(folder / "config.json", model_type="llama")
    with pytest.raises(FormatError, match="model_type='llama'; allowed: one of"):
        read_shared_exits(folder, "tiny", depths=(8,))
