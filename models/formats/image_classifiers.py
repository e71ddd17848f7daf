"""Reads convolutional classifiers of torchvision and timm: MobileNetV2, ResNet, EfficientNet-Lite.

A file holds a state dict (see `models.formats.convolutional`). Sizes follow from its tensors; what
no tensor says, strides, padding and the constant under the root, follows from the layout. A folder
of timm also has ``config.json``, which says how images are normalised and the names of classes.

Sources: Sandler et al. 2018, MobileNetV2, arXiv 1801.04381; He et al. 2016, Deep Residual Learning,
arXiv 1512.03385; Tan and Le 2019, EfficientNet, arXiv 1905.11946, whose Lite form has neither
squeeze-excitation nor swish; names of tensors as torchvision 0.28 and timm 1.0 have them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from models.families.convnet import Convnet, ConvnetConfig
from models.formats.convolutional import (
    IMAGENET,
    Names,
    Norm,
    StateDict,
    build,
    labels_of,
    read_state,
)
from models.formats.folder import WEIGHTS, Fields, FormatError
from models.formats.image_layouts import READERS, Draft
from models.inputs.image import ImageInput
from models.nn.blocks import UnitConfig

KEEP = "keep"  # the one axis, of one value until the model is made elastic
FORMATS = tuple(READERS)
_CONFIG = "config.json"
_OF_AUTOFORMER = "blocks.0.attn.rel_pos_embed_k.embeddings_table_v"
_TF_EPS = 1e-3
_TF_IMAGE = ImageInput(224, 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def read(
    path: Path,
    name: str,
    format_: str | None = None,
    labels: Sequence[str] | None = None,
    image: ImageInput | None = None,
    size: int | None = None,
) -> Convnet:
    """Read a classifier as a model with one subnet.

    Args:
        path: Of the state dict, or a folder of timm with ``model.safetensors``.
        name: What clients call the model.
        format_: One of `FORMATS`; None to tell by the names of tensors and the folder's settings.
        labels: Class names; None for those of the folder, or numbers.
        image: Size and normalisation of the images; None for those of the folder, or those that
            the format's published weights were trained with.
        size: Height and width of the images, in place of those.

    Raises:
        FormatError: If the format cannot be told, or a tensor is missing, of another shape or not
            part of the model.
    """
    settings = Fields.read_if_there(path / _CONFIG) if path.is_dir() else None
    state = read_state(path / WEIGHTS if path.is_dir() else path)
    chosen = format_ or told(state, settings)
    if chosen not in FORMATS:
        raise FormatError(f"{state.path}: format={chosen!r}; allowed: one of {list(FORMATS)}")
    is_tf = chosen in ("timm-tf-efficientnet-lite", "efficientnet-lite-pytorch")
    draft = Draft(state, "same" if is_tf else "half")
    classifier = READERS[chosen](draft)
    count = state.rows(f"{classifier}.weight")
    given = image or _image(settings, chosen)
    config = ConvnetConfig(
        labels_of(labels or _names(settings, count), count),
        given if size is None else replace(given, height=size, width=size),
        {KEEP: (1.0,)},
        tuple(draft.blocks),
        eps=_TF_EPS if is_tf else 1e-5,
        subnets=((0,),),
    )
    head = {
        "classifier.weight": state.take(f"{classifier}.weight", count, draft.channels),
        "classifier.bias": state.take(f"{classifier}.bias", count),
    }

    def kernels(unit: UnitConfig, names: Names, shape: tuple[int, ...]) -> Mapping[int, Tensor]:
        return {unit.kernel.values[0]: state.take(f"{names.conv}.weight", *shape)}

    def norm(_: UnitConfig, names: Names, channels: int) -> Norm:
        affine = state.pair(names.norm, "weight", "bias", channels)
        statistics = state.pair(names.norm, "running_mean", "running_var", channels)
        return Norm(affine[None], statistics[None])

    return build(name, config, state, draft.names, kernels, norm, head)


def is_one(path: Path) -> bool:
    """Return whether a path is a file of tensors, or a folder of timm."""
    if path.is_dir():
        file = path / _CONFIG
        return file.is_file() and "architecture" in Fields.read(file).values
    return path.is_file()


def told(state: StateDict, settings: Fields | None = None) -> str:
    """Return the format that the names of a file's tensors say.

    Raises:
        FormatError: If they say none, or what they do not say must be told.
    """
    if state.has(_OF_AUTOFORMER):
        raise FormatError(
            f"{state.path}: tensor {_OF_AUTOFORMER!r} is AutoFormer's, which is elastic already: "
            "models.formats.autoformer.read reads it with the choices that it was trained for"
        )
    if state.has("features.0.0.weight") and state.has("features.1.conv.0.0.weight"):
        return "torchvision-mobilenet-v2"
    if state.has("layer1.0.conv1.weight") and state.has("conv1.weight"):
        return "resnet"
    if state.has("_conv_stem.weight"):
        return "efficientnet-lite-pytorch"
    if state.has("conv_stem.weight"):
        said = str((settings.values if settings else {}).get("architecture", ""))
        for start, found in (
            ("tf_efficientnet_lite", "timm-tf-efficientnet-lite"),
            ("efficientnet_lite", "timm-efficientnet-lite"),
            ("mobilenetv2", "timm-mobilenet-v2"),
        ):
            if said.startswith(start):
                return found
        if said:
            raise FormatError(
                f"{state.path}: architecture={said!r}; allowed: mobilenetv2, efficientnet_lite and "
                "tf_efficientnet_lite"
            )
        raise FormatError(
            f"{state.path}: its names are those of three formats, which pad differently; "
            "--format must say which: one of timm-mobilenet-v2, timm-efficientnet-lite and "
            "timm-tf-efficientnet-lite"
        )
    raise FormatError(
        f"{state.path}: its tensors are those of no format that is known; allowed: {list(FORMATS)}"
    )


def _names(settings: Fields | None, count: int) -> Sequence[str] | None:
    named: Any = settings.values.get("label_names") if settings else None
    return named if isinstance(named, list) and len(named) == count else None


def _image(settings: Fields | None, format_: str) -> ImageInput:
    """Return what images become by a folder's settings, or by the format's published weights."""
    usual = _TF_IMAGE if format_ == "timm-tf-efficientnet-lite" else IMAGENET
    said = settings.within("pretrained_cfg") if settings else None
    if said is None or not said.values:
        return usual
    given: dict[str, Any] = {}
    for ours, theirs in (("mean", "mean"), ("std", "std")):
        values = said.values.get(theirs)
        if values is not None:
            if not isinstance(values, list) or len(values) != 3:
                raise said.error(theirs, "three numbers")
            given[ours] = tuple(map(float, values))
    size = said.values.get("input_size")
    if size is not None:
        if not isinstance(size, list) or len(size) != 3 or size[0] != 3:
            raise said.error("input_size", "[3, height, width]")
        given["height"], given["width"] = int(size[1]), int(size[2])
    return replace(usual, **given)
