"""A subnet of a slimmable classifier as safetensors, with what a program needs to rebuild it.

No public library has this network, so ``config.json`` says it layer by layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from models.export.parts import WEIGHTS, Folder
from models.families.slimmable import Slimmable
from models.formats.vision import PREPROCESSOR
from models.inputs.image import ImageInput
from models.nn.layers import GROUP_SIZE
from models.space import Subnet

_BICUBIC = 3  # of Pillow's filters, as public folders have it


def write(model: Slimmable, subnet: Subnet, tasks: Sequence[str], folder: Folder) -> None:
    """Write the subnet's weights, its architecture and what becomes of an image."""
    config, image = model.config, model.config.input
    widths = model.stage_widths(subnet)
    decoders = {task: model.decoder_width(task, subnet) for task in tasks}
    folder.layout = "safetensors"
    folder.write_tensors(_sliced(model, widths, decoders))
    folder.write_json(
        "config.json",
        {
            "channels": widths,
            "blocks": config.blocks,
            "strides": config.strides,
            "decoder_channels": decoders,
            "norm_group": GROUP_SIZE,
            "norm_eps": 1e-5,
            "tasks": {task: config.tasks[task] for task in tasks},
        },
    )
    folder.write_json(PREPROCESSOR, preprocessor(image))
    folder.card = [
        f"## `{WEIGHTS}`",
        "",
        (
            "`config.json` has the sizes. A convolution has no bias and is padded by half its "
            f"kernel; each is followed by group normalisation of {GROUP_SIZE} channels a group."
        ),
        "",
        "1. `stem` (3x3, the first stride), `stem_norm`, ReLU.",
        (
            "2. `stages.S.B`: ReLU(`norm1`(`conv1`)), then `norm2`(`conv2`), plus the block's "
            "input or its `shortcut` (1x1) where there is one, ReLU. The first block of stage S > "
            "0 has that stage's stride in `conv1` and `shortcut`."
        ),
        (
            "3. `decoders.TASK`: ReLU(`norm1`(`conv1`, 1x1)), ReLU(`norm2`(`conv2`, 3x3)), the "
            "mean over places, `head`."
        ),
        "",
        (
            f"`{PREPROCESSOR}` says what becomes of an image: RGB, bicubic until the shorter side "
            "fits, cut at the centre, divided by 255, less the mean, over the deviation."
        ),
    ]


def preprocessor(image: ImageInput) -> dict[str, Any]:
    """Return what becomes of an image, as ``preprocessor_config.json`` has it."""
    return {
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": min(image.height, image.width)},
        "resample": _BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": image.height, "width": image.width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": image.mean,
        "image_std": image.std,
    }


def _sliced(model: Slimmable, widths: list[int], decoders: dict[str, int]) -> dict[str, Tensor]:
    """Return the subnet's tensors; decoders are named by their task."""
    state, found = model.state_dict(), {}

    def block(ours: str, theirs: str, inputs: int, width: int) -> None:
        for name, cut in (
            ("conv1.weight", (slice(width), slice(inputs))),
            ("conv2.weight", (slice(width), slice(width))),
            ("shortcut.weight", (slice(width), slice(inputs))),
            *((f"norm{n}.{part}", (slice(width),)) for n in (1, 2) for part in ("weight", "bias")),
        ):
            if f"{ours}.{name}" in state:
                found[f"{theirs}.{name}"] = state[f"{ours}.{name}"][cut]

    inputs = widths[0]
    for name in ("stem.weight", "stem_norm.weight", "stem_norm.bias"):
        found[name] = state[name][:inputs]
    for i, width in enumerate(widths):
        for j in range(model.config.blocks[i]):
            block(f"stages.{i}.{j}", f"stages.{i}.{j}", inputs, width)
            inputs = width
    place = {task: i for i, task in enumerate(model.config.tasks)}
    for task, width in decoders.items():
        ours, theirs = f"decoders.{place[task]}", f"decoders.{task}"
        block(ours, theirs, inputs, width)
        found[f"{theirs}.head.weight"] = state[f"{ours}.head.weight"][:, :width]
        found[f"{theirs}.head.bias"] = state[f"{ours}.head.bias"]
    return found
