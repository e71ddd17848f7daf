from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.families.convnet import Convnet
from models.formats import slimmable_networks
from models.formats.folder import FormatError
from models.formats.slimmable_networks import Architecture
from models.inputs.image import ImageInput
from models.space import Subnet
from models.train.statistics import estimated
from tests.models.formats import slimmable_files as files
from tests.walking import answers_of

IMAGE = ImageInput(64, 64, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
WIDTHS = (0.25, 0.5, 0.75, 1.0)
CASES = [
    (architecture, universal)
    for architecture in get_args(Architecture)
    for universal in (False, True)
    if not (universal and architecture == "resnet-50")
]


def read(path: Path, architecture: Architecture, universal: bool, **more: Any) -> Convnet:
    given: dict[str, Any] = {"widths": WIDTHS, "image": IMAGE, **more}
    return slimmable_networks.read(path, "tiny", architecture, universal=universal, **given)


def logits(model: Convnet, width: float, x: Tensor) -> Tensor:
    plan = model.plan(Subnet({"width": width}), {"image": IMAGE.shape})
    (found,) = answers_of(plan, {"image": x}).values()
    return found


@pytest.mark.parametrize(("architecture", "universal"), CASES)
def test_every_width_equals_a_plain_network_with_its_own_normalisation(
    architecture: Architecture, universal: bool, tmp_path: Path
) -> None:
    builder = files.random_file(architecture, WIDTHS, universal)
    torch.save(files.parallel(builder.state), tmp_path / "net.pt")
    model = read(tmp_path / "net.pt", architecture, universal)
    x = torch.randn(3, *IMAGE.shape)
    for at, width in enumerate(WIDTHS):
        expected = files.plain(builder, architecture, at)(x)
        torch.testing.assert_close(logits(model, width, x), expected, atol=1e-4, rtol=1e-4)


def test_a_width_with_the_statistics_of_another_answers_otherwise(tmp_path: Path) -> None:
    builder = files.random_file("mobilenet-v1", WIDTHS, universal=True)
    for name, tensor in builder.state.items():
        if ".bn.0." in name:  # a slice of the widest one's: the shared normalisation that collapses
            whole = builder.state[name.replace(".bn.0.", ".bn.3.")]
            builder.state[name] = whole[: len(tensor)].clone() if tensor.ndim else tensor
    save_file(builder.state, tmp_path / "sliced.safetensors")
    sliced = read(tmp_path / "sliced.safetensors", "mobilenet-v1", universal=True)
    own = files.random_file("mobilenet-v1", WIDTHS, universal=True)
    save_file(own.state, tmp_path / "own.safetensors")
    right = read(tmp_path / "own.safetensors", "mobilenet-v1", universal=True)
    x = torch.randn(3, *IMAGE.shape)
    assert torch.equal(logits(sliced, 1.0, x), logits(right, 1.0, x))
    assert (logits(sliced, 0.25, x) - logits(right, 0.25, x)).abs().max() > 0.1


def test_the_last_normalisation_of_mobilenet_v2_is_one_for_all_widths(tmp_path: Path) -> None:
    builder = files.random_file("mobilenet-v2", WIDTHS, universal=True)
    save_file(builder.state, tmp_path / "net.safetensors")
    model = read(tmp_path / "net.safetensors", "mobilenet-v2", universal=True)
    unit = model.block(len(model.blocks) - 1).unit(0)
    assert len(unit.statistics) == len(WIDTHS)
    assert all(torch.equal(one, unit.statistics[0]) for one in unit.statistics)


def test_a_width_that_the_file_does_not_list_needs_statistics_of_its_own(tmp_path: Path) -> None:
    builder = files.random_file("mobilenet-v2", WIDTHS, universal=True)
    save_file(builder.state, tmp_path / "net.safetensors")
    offered = (0.25, 0.375, 1.0)
    model = read(tmp_path / "net.safetensors", "mobilenet-v2", universal=True, offered=offered)
    assert model.space.listed is None
    ready = estimated(model, [Subnet({"width": 0.375})], [torch.randn(16, *IMAGE.shape)])
    assert [one["width"] for one in ready.space] == [0.375, 0.25, 1.0]
    assert logits(ready, 0.375, torch.randn(2, *IMAGE.shape)).isfinite().all()


@pytest.mark.parametrize(
    ("architecture", "width", "millions"),
    [
        ("mobilenet-v1", 1.0, 568),
        ("mobilenet-v1", 0.5, 149),
        ("mobilenet-v1", 0.25, 41),
        ("mobilenet-v2", 1.0, 300),
        ("mobilenet-v2", 0.35, 59),
    ],
)
def test_published_widths_have_the_published_macs(
    architecture: Architecture, width: float, millions: int, tmp_path: Path
) -> None:
    widths = (width, 1.0) if width < 1 else (1.0,)
    state = files.random_file(architecture, widths, True, files.PUBLISHED).state
    save_file(state, tmp_path / "net.safetensors")
    image = ImageInput(224, 224, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    model = read(
        tmp_path / "net.safetensors", architecture, universal=True, widths=widths, image=image
    )
    plan = model.plan(Subnet({"width": width}), {"image": image.shape})
    assert plan.cost.macs // 10**6 == millions


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"widths": (0.5, 1.0)}, r"widths=\[0.5, 1.0\]; the file has statistics of 4"),
        ({"widths": (1.0, 0.5)}, "ascending, the last 1"),
        ({"universal": False, "offered": (0.5, 1.0)}, "allowed: none without universal=True"),
        ({"architecture": "resnet-50"}, "resnet-50 with universal=True"),
        ({"labels": ("a", "b")}, "2 labels; the classifier has 4 classes"),
    ],
)
def test_what_does_not_fit_the_file_is_refused(
    more: dict[str, Any], message: str, tmp_path: Path
) -> None:
    builder = files.random_file("mobilenet-v1", WIDTHS, universal=True)
    save_file(builder.state, tmp_path / "net.safetensors")
    given = {"architecture": "mobilenet-v1", "universal": True, **more}
    with pytest.raises(FormatError, match=message):
        read(tmp_path / "net.safetensors", **given)
