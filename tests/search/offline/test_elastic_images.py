"""From a convolutional file and a folder of images to a served elastic checkpoint."""

from __future__ import annotations

import io
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode
from typer.testing import CliRunner

from models import checkpoint
from models.formats.image_classifiers import read
from search.offline.front_page import PAGE, PICTURE
from search.offline.image_checkpoint import elasticize_images
from search.offline.material import read_material
from search.offline.options import RunOptions
from server import catalog
from server.app import create_app
from server.cli.main import cli
from server.settings import Settings
from tests.models.formats.plain_networks import Network, torchvision_mobilenet
from tests.walking import answers_of

CLASSES = ("ant", "bee", "cat", "dog", "eel")


def picture(rng: Random) -> bytes:
    pixels = bytes(rng.randrange(256) for _ in range(36 * 36 * 3))
    file = io.BytesIO()
    Image.frombytes("RGB", (36, 36), pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = Network()
    torchvision_mobilenet(net, torch.randn(1, 3, 32, 32, generator=torch.Generator()))
    path = tmp_path_factory.mktemp("net") / "mobilenet_v2.safetensors"
    save_file(net.tensors, path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng, folder = Random(0), tmp_path_factory.mktemp("images")
    for i in range(120):
        own = folder / CLASSES[i % 5]
        own.mkdir(exist_ok=True)
        (own / f"{i}.png").write_bytes(picture(rng))
    return folder


def elasticize(source: Path, data: Path, out: Path, *more: str) -> str:
    arguments = ["elasticize", str(source), "--data", str(data), "--out", str(out), "--size", "32"]
    arguments += ["--minutes", "0.1", "--keep", "0.6,0.8", "--name", "net", *more]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_file_becomes_a_served_checkpoint_that_answers_within_a_budget(
    source: Path, images: Path, tmp_path: Path
) -> None:
    labels, out = tmp_path / "labels.txt", tmp_path / "out"
    labels.write_text("\n".join(CLASSES) + "\n")
    told = elasticize(source, images, out, "--labels", str(labels))
    assert "rheostat serve" in told
    assert (out / PICTURE).is_file()
    assert (out / PAGE).is_file()
    assert "| contribution |" in (out / "README.md").read_text()
    served = catalog.load(out).choose("net")
    (task,) = served.elastic.tasks.values()
    assert (task.labels, task.metric) == (CLASSES, "accuracy")
    shapes = served.inputs.plan_shapes()
    macs = [
        served.elastic.plan(subnet, shapes).cost.macs
        for subnet in sorted(served.elastic.space, key=lambda one: float(one["keep"]))
    ]
    assert macs[0] <= 0.6 * macs[2] < macs[1] <= 0.8 * macs[2]
    settings = Settings(
        models=out, policy="fixed", database=f"sqlite:///{tmp_path / 'c.db'}", profiles=tmp_path
    )
    with TestClient(create_app(settings)) as client:
        files = {"image": ("a.png", picture(Random(5)), "image/png")}
        headers = {"x-rheostat-fraction": "0.7"}
        answer = client.post("/v1/infer", files=files, headers=headers).json()
    assert answer["receipt"]["subnet"] == {"keep": 0.6}
    assert answer["outputs"][0][task.name]["label"] in CLASSES


def test_the_whole_model_is_the_one_that_was_read_whatever_images_there_are(
    source: Path, images: Path, tmp_path: Path
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, file in enumerate(sorted(images.rglob("*.png"))):
        (flat / f"{i}.png").write_bytes(file.read_bytes())
    elasticize(source, flat, tmp_path / "out")
    made = checkpoint.load(tmp_path / "out").model
    whole = read(source, "net", size=32)
    given = {"image": torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    found, expected = (
        answers_of(one.plan(one.space.largest, one.inputs.plan_shapes()), given)["label"]
        for one in (made, whole)
    )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert made.tasks["label"].metric == "agreement"


class Work(TorchFunctionMode):
    """Time that passes with the multiplications of tensors, and a little with every look."""

    def __init__(self, seconds_per_mac: float) -> None:
        super().__init__()
        self.now, self._pace = 0.0, seconds_per_mac

    def look(self) -> float:
        self.now += 1e-3
        return self.now

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func is torch.conv2d:
            self.now += self._pace * found.numel() * args[1][0].numel()
        elif func is Tensor.matmul:
            self.now += self._pace * found.numel() * args[0].shape[-1]
        return found


@pytest.mark.parametrize("seconds", [60.0, 200.0])
def test_a_run_ends_within_the_time_however_many_images_are_held_out(
    source: Path, images: Path, tmp_path: Path, seconds: float
) -> None:
    base = read(source, "net", labels=CLASSES, size=32)
    macs = base.plan(base.space.largest, base.inputs.plan_shapes()).cost.macs
    options = RunOptions(seconds=seconds, keep=(0.6, 0.8))
    with Work(0.1 / macs) as work:
        elasticize_images(
            base,
            source,
            tmp_path / "out",
            read_material(images, [], 0),
            options,
            work.look,
            lambda _: None,
        )
    assert 0.3 * seconds < work.now <= seconds
    table = catalog.load(tmp_path / "out").choose("net").table
    assert 20 <= int(table.cells["label"].n[0, 0]) <= 24  # of the 24 that are held out


def test_what_does_not_go_together_is_refused(source: Path, images: Path, tmp_path: Path) -> None:
    def refused(*arguments: str) -> str:
        result = CliRunner().invoke(cli, ["elasticize", *arguments, "--out", str(tmp_path / "x")])
        assert result.exit_code == 2, result.output
        return result.output

    data = ("--data", str(images))
    told = refused(str(source), *data, "--minutes", "0.1")
    assert "is none of the model's: 0, 1, 2, 3, 4" in told
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"text number {i}" for i in range(40)))
    told = refused(str(source), "--data", str(texts), "--minutes", "0.1")
    assert "the model takes inputs of kind 'image'" in told
