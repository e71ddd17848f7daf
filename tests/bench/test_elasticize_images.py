"""The parts of `bench.elasticize_images` that need no public weights."""

from __future__ import annotations

import colorsys
from pathlib import Path
from random import Random

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from bench.elasticize_images import PARTS, Drawn, measured, with_head
from models.elasticize.channels import CHANNEL_RANKINGS
from models.families.convnet import Convnet
from models.formats.image_classifiers import read
from models.inputs.image import ImageInput
from search.offline.options import RunOptions
from tests.models.formats.plain_networks import Network, torchvision_mobilenet

KEEP = (0.7, 0.85)


@pytest.fixture
def model(tmp_path: Path) -> Convnet:
    net = Network()
    torchvision_mobilenet(net, torch.randn(1, 3, 32, 32, generator=torch.Generator()))
    path = tmp_path / "net.safetensors"
    save_file(net.tensors, path)
    return read(path, "net", image=ImageInput(32, 32, (0.5,) * 3, (0.5,) * 3))


def drawn(folder: Path, counts: dict[str, int]) -> Drawn:
    """Write images of three colours, which are their classes, with noise."""
    rng = Random(0)
    found: Drawn = {}
    for part, count in counts.items():
        found[part] = []
        for i in range(count):
            hue = colorsys.hsv_to_rgb(i % 3 / 3, 1, 1)
            pixels = bytes(
                min(255, max(0, int(200 * value + rng.randrange(50))))
                for _ in range(32 * 32)
                for value in hue
            )
            path = folder / f"{part}-{i}.png"
            Image.frombytes("RGB", (32, 32), pixels).save(path)
            found[part].append((path, i % 3))
    return found


def test_a_head_tells_the_classes_and_cuts_are_scored_beside_it(
    tmp_path: Path, model: Convnet
) -> None:
    data = drawn(tmp_path, {"head": 60, "choose": 30, "report": 30})
    headed = with_head(model, data["head"])
    assert headed.config.labels == ("0", "1", "2")
    rows = measured(headed, data, RunOptions(seconds=4.0, keep=KEEP, seed=0), 0, PARTS)
    by_cut = {(row["cut"], row["repair"], row["keep"]): row for row in rows}
    assert by_cut.keys() == {
        ("whole", "none", 1.0),
        *(("search", "fit", keep) for keep in KEEP),
        *((c, r, keep) for c in CHANNEL_RANKINGS for r in ("fit", "statistics") for keep in KEEP),
    }
    whole = by_cut["whole", "none", 1.0]
    cut = [row for row in rows if row["cut"] in CHANNEL_RANKINGS]
    kept = {
        repair: sum(row["kept"] for row in cut if row["repair"] == repair)
        for repair in ("fit", "statistics")
    }
    assert kept["fit"] > kept["statistics"]
    assert whole["accuracy"] > 0.9
    for row in rows:
        assert row["n"] == 30
        assert row["macs"] <= row["keep"]
        assert row["kept"] == pytest.approx(row["accuracy"] / whole["accuracy"])
