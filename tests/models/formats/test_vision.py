"""ViT, DeiT and DINOv2 folders against transformers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models import checkpoint
from models.formats import FormatError
from models.formats.vision import PREPROCESSOR, read
from tests.models.formats.public import change_json
from tests.tiny_text import randomise
from tests.walking import answers_of

transformers = pytest.importorskip("transformers")

_SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 8,
    "patch_size": 4,
}
_MORE: dict[str, dict[str, Any]] = {
    "vit": {"qkv_bias": False},
    "deit": {"hidden_act": "relu"},
    "dinov2": {"mlp_ratio": 2},
}


def write_folder(folder: Path, kind: str, classes: int | None) -> Any:
    """Write a small folder and return the public model."""
    config = transformers.AutoConfig.for_model(kind, **_SIZES, **_MORE[kind])
    name = {"vit": "ViT", "deit": "DeiT", "dinov2": "Dinov2"}[kind]
    if classes is None:
        public = getattr(transformers, f"{name}Model")(config).eval()
    else:
        config.num_labels = classes
        public = getattr(transformers, f"{name}ForImageClassification")(config).eval()
    randomise(public)
    public.save_pretrained(folder)
    processor = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "do_resize": True}
    (folder / PREPROCESSOR).write_text(json.dumps(processor))
    return public


def images() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", list(_MORE))
def test_a_classifier_equals_the_public_one(tmp_path: Path, kind: str) -> None:
    public = write_folder(tmp_path, kind, 3)
    model = read(tmp_path, "tiny")
    plan = model.plan(model.space.largest, model.inputs.plan_shapes())
    with torch.no_grad():
        expected = public(images()).logits
    found = answers_of(plan, {"image": images()})["label"]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert model.config.image is not None
    assert model.config.image.input.mean == (0.5, 0.4, 0.3)


@pytest.mark.parametrize("kind", list(_MORE))
def test_a_bare_encoder_gives_its_first_token_as_a_unit_vector(tmp_path: Path, kind: str) -> None:
    public = write_folder(tmp_path, kind, None)
    model = read(tmp_path, "tiny")
    plan = model.plan(model.space.largest, model.inputs.plan_shapes())
    with torch.no_grad():
        first = public(images()).last_hidden_state[:, 0]
    found = answers_of(plan, {"image": images()})["similarity"]
    torch.testing.assert_close(
        found, torch.nn.functional.normalize(first, dim=1), atol=1e-4, rtol=0
    )
    checkpoint.save(tmp_path / "ours", model, "headed", torch.float32)
    loaded = checkpoint.load(tmp_path / "ours").model
    again = answers_of(
        loaded.plan(loaded.space.largest, loaded.inputs.plan_shapes()), {"image": images()}
    )
    assert torch.equal(again["similarity"], found)


@pytest.mark.parametrize("classes", [3, None])
@pytest.mark.parametrize("kind", list(_MORE))
def test_an_exit_is_the_first_layers_and_the_one_final_norm_and_head(
    tmp_path: Path, kind: str, classes: int | None
) -> None:
    """Trap: the public model's hidden state after a layer has not passed the final norm."""
    public = write_folder(tmp_path, kind, classes)
    model = read(tmp_path, "tiny", depths=(1, 2, 3))
    inner = public if classes is None else getattr(public, kind)
    place, name = (inner.encoder, "layer") if kind == "dinov2" else (inner, "layers")
    layers, (task,) = getattr(place, name), model.tasks
    for depth in (3, 2, 1):
        setattr(place, name, layers[:depth])
        with torch.no_grad():
            told = public(images(), output_hidden_states=True)
        expected = told.logits if classes else told.last_hidden_state[:, 0]
        unit = torch.nn.functional.normalize
        expected = expected if classes else unit(expected, dim=1)
        plan = model.plan(model.space.largest | {"depth": depth}, model.inputs.plan_shapes())
        found = answers_of(plan, {"image": images()})[task]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        if classes is None:
            bare = unit(told.hidden_states[depth][:, 0], dim=1)
            assert (found - bare).abs().max() > 1e-2
    with pytest.raises(ValueError, match=r"depths=\[1, 2\] must be positive, ascend and end at 3"):
        read(tmp_path, "tiny", depths=(1, 2))


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        ("config.json", {"architectures": ["DeiTForImageClassificationWithTeacher"]}, "two tokens"),
        ("config.json", {"image_size": 9}, "must be a multiple of the patch size"),
        ("config.json", {"num_channels": 1}, "num_channels=1; allowed: 3"),
        (PREPROCESSOR, {"image_mean": [0.5]}, "image_mean=.* three numbers"),
        (PREPROCESSOR, {"rescale_factor": 1.0}, "rescale_factor=1.0; allowed: 1 / 255"),
        (PREPROCESSOR, {"do_normalize": False}, "do_normalize=False; allowed: True"),
    ],
    ids=lambda value: str(value)[:32],
)
def test_what_cannot_be_expressed_is_refused_by_name(
    tmp_path: Path, file: str, fields: dict[str, Any], message: str
) -> None:
    write_folder(tmp_path, "deit", 3)
    change_json(tmp_path / file, **fields)
    with pytest.raises(ValueError, match=message):
        read(tmp_path, "tiny")


def test_a_folder_without_its_preprocessing_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, "vit", 3)
    (tmp_path / PREPROCESSOR).unlink()
    with pytest.raises(FormatError, match=r"preprocessor_config\.json does not exist"):
        read(tmp_path, "tiny")
