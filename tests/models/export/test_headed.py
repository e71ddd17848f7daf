"""Subnets of encoders with heads, exported, against ONNX Runtime and transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.backends.onnx.sessions import options_beside
from models.export import Facts, write
from models.export.onnx_file import ONNX
from models.families.headed import Headed
from models.formats import sequence_classifiers, vision
from models.inputs.text import TextInput, text_input
from models.nn.ragged import Ragged
from models.space import Subnet
from tests.conformance.fixtures import headed as fixtures
from tests.models.formats.test_sequence_classifiers import write_classifier
from tests.models.formats.test_vision import write_folder
from tests.walking import answers_of

pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
transformers = pytest.importorskip("transformers")

TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9"]
PAIRS = [("w1 w2", "w3 w4 w5"), ("w6", "w7"), ("w8 w9 w10 w11", "w12")]


def elastic(model: Headed) -> Headed:
    """Return the model with a choice of heads and units; its order is as good as any."""
    made = Headed(model.name, replace(model.config, heads=(0.5, 1.0), ffn=(0.5, 1.0)))
    made.load_state_dict(model.state_dict())
    if made.assets:
        texts = [slot.type for slot in model.inputs.values() if isinstance(slot.type, TextInput)]
        made.take(*texts)
    return made.eval().requires_grad_(False)


def batch_of(model: Headed, items: Any) -> dict[str, Any]:
    """Return texts, pairs or images as the model's inputs."""
    if isinstance(items, Tensor):
        return {"image": items}
    rows = [item if isinstance(item, tuple) else (item,) for item in items]
    return {
        name: Ragged.pack([text_input(model.inputs, name).encode(row[i]) for row in rows])
        for i, name in enumerate(model.inputs)
    }


def by_server(model: Headed, subnet: Subnet, items: Any) -> Tensor:
    batch = batch_of(model, items)
    plan = model.plan(subnet, model.inputs.plan_shapes())
    (found,) = answers_of(plan, batch).values()
    return found


def by_onnx(folder: Path, model: Headed, items: Any) -> Tensor:
    path = str(folder / ONNX)
    session = runtime.InferenceSession(path, options_beside(), ["CPUExecutionProvider"])
    given: dict[str, Any] = {}
    batch = batch_of(model, items)
    for name, value in batch.items():
        prefix = "" if len(batch) == 1 else f"{name}_"
        if isinstance(value, Ragged):
            given[f"{prefix}input_ids"] = value.layout.pad(value.values).numpy()
            given[f"{prefix}attention_mask"] = value.layout.present.long().numpy()
        else:
            given["pixel_values"] = value.numpy()
    return torch.from_numpy(session.run(None, given)[0])


@torch.no_grad()
def by_transformers(folder: Path, items: Any) -> Tensor:
    if isinstance(items, Tensor):
        public = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
        logits: Tensor = public(items).logits
        return logits
    public = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    found = []
    for item in items:
        row = item if isinstance(item, tuple) else (item,)
        found.append(public(**tokenizer(*row, return_tensors="pt")).logits)
    return torch.cat(found)


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def classifier(folder: Path) -> Headed:
    write_classifier(folder, "bert")
    return sequence_classifiers.read(folder, "tiny")


def cross_encoder(folder: Path) -> Headed:
    write_classifier(folder, "roberta", 1, type_vocab_size=2)
    return sequence_classifiers.read(folder, "tiny", pair=True)


def image_classifier(folder: Path) -> Headed:
    write_folder(folder, "vit", 3)
    return vision.read(folder, "tiny")


def with_distillation_token(folder: Path) -> Headed:
    write_folder(folder, "deit", 3)
    return vision.read(folder, "tiny")


CASES: Mapping[str, tuple[Any, Any]] = {
    "classes of texts": (classifier, TEXTS),
    "scores of pairs": (cross_encoder, PAIRS),
    "classes of images": (image_classifier, images()),
    "with a distillation token": (with_distillation_token, images()),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_subnet_equals_the_served_one_everywhere(tmp_path: Path, case: str, share: float) -> None:
    make, items = CASES[case]
    (tmp_path / "public").mkdir()
    model = elastic(make(tmp_path / "public"))
    subnet = model.space.largest | {"heads": share, "ffn": share}
    out = tmp_path / "out"
    remarks = write(model, subnet, out, Facts("1", 0, {}))
    expected = by_server(model, subnet, items)
    assert any("are zeros" in remark for remark in remarks) == (share < 1)
    torch.testing.assert_close(by_onnx(out, model, items), expected, atol=1e-4, rtol=0)
    one = by_onnx(out, model, items[:1])
    torch.testing.assert_close(one, expected[:1], atol=1e-4, rtol=0)
    public = by_transformers(out, items).reshape(expected.shape)
    torch.testing.assert_close(public, expected, atol=1e-4, rtol=0)


def test_what_was_exported_is_read_again_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "public").mkdir()
    model = cross_encoder(tmp_path / "public")
    write(model, model.space.largest, tmp_path / "out", Facts("1", 0, {}))
    again = sequence_classifiers.read(tmp_path / "out", "again", pair=True)
    expected = by_server(model, model.space.largest, PAIRS)
    found = by_server(again, again.space.largest, PAIRS)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("make", [fixtures.pairs, fixtures.images, fixtures.classes])
def test_what_has_no_layout_has_an_onnx_file_and_a_remark(tmp_path: Path, make: Any) -> None:
    (tmp_path / "tiny").mkdir()
    model = make(tmp_path / "tiny")
    subnet = model.space.largest | {"depth": 2, "heads": 0.5}
    remarks = write(model, subnet, tmp_path / "out", Facts("1", 0, {}))
    assert any("transformers has no layout for this model" in remark for remark in remarks)
    items: Any = images() if make is fixtures.images else TEXTS
    items = PAIRS if make is fixtures.pairs else items
    found = by_onnx(tmp_path / "out", model, items)
    torch.testing.assert_close(found, by_server(model, subnet, items), atol=1e-4, rtol=0)
