from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from models.train.vision import UNKNOWN, VOID, with_known
from search.offline.datasets import write_pipe_rgbd, write_scenes
from search.offline.errors import DataError
from search.offline.vision_data import read_vision

DESCRIPTION = """
name = "rooms"
size = [8, 12]

[splits]
train = "train.txt"
validation = "validation.txt"
test = "test.txt"

[tasks.parts]
kind = "labels"
folder = "parts"
classes = ["sky", "sea"]
palette = ["#0000ff", "#00ff00"]
void = ["#000000"]

[tasks.depth]
kind = "depth"
folder = "depth"
scale = 0.5

[tasks.normals]
kind = "normals"
folder = "normals"

[tasks.edges]
kind = "edges"
folder = "edges"

[tasks.place]
kind = "classes"
classes = ["coast", "land"]
csv = "places.csv"
"""
NAMES = ("a.jpg", "b.png", "more/c.webp")


def save(path: Path, values: NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of 12 x 8 pixels, a split each; the first is stored on its side."""
    rng = np.random.default_rng(0)
    (tmp_path / "dataset.toml").write_text(DESCRIPTION)
    for name, split in zip(NAMES, ("train", "validation", "test"), strict=True):
        (tmp_path / f"{split}.txt").write_text(f"{name}\n")
        shown = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)
        path = tmp_path / "images" / name
        if name == "a.jpg":
            exif = Image.Exif()
            exif[0x0112] = 6  # a quarter turn clockwise shows it
            path.parent.mkdir()
            gradient = np.repeat(np.arange(0, 240, 20, dtype=np.uint8)[:, None], 8, axis=1)
            turned = Image.fromarray(gradient[::-1].copy()).convert("RGB")
            turned.save(path, exif=exif, quality=100)
        else:
            save(path, shown)
        png = Path(name).with_suffix(".png")
        parts = np.zeros((8, 12, 3), np.uint8)
        parts[:, :6, 2], parts[:4, 6:, 1] = 255, 255
        save(tmp_path / "parts" / png, parts)
        depth = np.arange(96, dtype=np.uint16).reshape(8, 12) * 600
        save(tmp_path / "depth" / png, depth)
        save(tmp_path / "normals" / png, np.full((8, 12, 3), (128, 255, 128), np.uint8))
        save(tmp_path / "edges" / png, (depth > 600).astype(np.uint8) * 255)
    (tmp_path / "places.csv").write_text("file,place\na.jpg,coast\nb.png,land\nmore/c.webp,land\n")
    return tmp_path


def test_files_become_what_they_say(folder: Path) -> None:
    data = read_vision(folder)
    assert (data.name, list(data.tasks)) == (
        "rooms",
        ["parts", "depth", "normals", "edges", "place"],
    )
    assert {name: task.metric for name, task in data.tasks.items()} == {
        "parts": "miou",
        "depth": "rmse",
        "normals": "mean_angular_error",
        "edges": "f1",
        "place": "accuracy",
    }
    truth = data.train.truth
    assert truth["parts"][0, 0].tolist() == [0] * 6 + [1] * 6
    assert truth["parts"][0, 7].tolist() == [0] * 6 + [VOID] * 6
    assert truth["depth"].isnan().sum() == 1  # 0 is not known
    assert truth["depth"][0, 0, 7, 11] == 95 * 300
    torch.testing.assert_close(
        truth["normals"][0, :, 3, 3], torch.tensor([0.0, 1.0, 0.0]), atol=6e-3, rtol=0
    )
    assert truth["edges"][0].sum() == 94
    assert (int(truth["place"][0]), int(data.test.truth["place"][0])) == (0, 1)


def test_images_are_as_a_viewer_shows_them(folder: Path) -> None:
    first = read_vision(folder).train.pixels[0].int()
    across = first.float().mean(dim=(0, 1))
    assert first.shape == (3, 8, 12)
    assert (across.diff() > 10).all()  # it was stored from top to bottom, the other way round


def test_what_is_not_there_is_unknown(folder: Path) -> None:
    for split, name in (("train", "b2"), ("validation", "b3"), ("test", "b4")):
        image = np.full((8, 12, 3), len(split), np.uint8)
        save(folder / "images" / f"{name}.png", image)
        with (folder / f"{split}.txt").open("a") as file:
            file.write(f"{name}.png\n")
    data = read_vision(folder)
    for task in data.tasks:
        assert with_known(data.train, task).tolist() == [0], task
    assert (data.train.truth["parts"][1] == VOID).all()
    assert data.train.truth["depth"][1].isnan().all()
    assert data.train.truth["place"][1] == UNKNOWN


def test_classes_may_be_the_names_of_folders_and_splits_shares(folder: Path) -> None:
    for i in range(60):
        save(
            folder / "images" / ("coast", "land")[i % 2] / f"{i}.png", np.full((8, 12), i, np.uint8)
        )
    for name in NAMES:
        (folder / "images" / name).unlink()
    start = DESCRIPTION.partition("[splits]")[0]
    (folder / "dataset.toml").write_text(
        start + "[splits]\nvalidation = 0.3\ntest = 0.3\n"
        '[tasks.place]\nkind = "classes"\nclasses = ["coast", "land"]\n'
    )
    data = read_vision(folder)
    counts = [len(one) for one in (data.train, data.validation, data.test)]
    assert sum(counts) == 60
    assert min(counts) > 8
    for one in (data.train, data.validation, data.test):
        assert (one.pixels[:, 0, 0, 0] % 2 == one.truth["place"]).all()


WRONG = {
    "size = [8, 12]": ("size = [8, 4]", "size.1=4: Input should be greater than or equal to 8"),
    "scale = 0.5": ("scale = 0.0", "tasks.depth.scale=0.0: Input should be greater than 0"),
    'kind = "edges"': ('kind = "edge"', "tasks.edges=.*'edge'.*'edges'"),
    'test = "test.txt"': ("test = 0.1", "splits: train, validation and test are three lists"),
    'folder = "depth"': ('folder = "deep"', "tasks.depth.folder='deep' is no folder"),
    'palette = ["#0000ff", "#00ff00"]': (
        'palette = ["#0000ff"]',
        "tasks.parts: palette has 1 colours for 2 classes",
    ),
    'void = ["#000000"]': (
        'void = ["#111111"]',
        "parts/a.png: a pixel is #000000; allowed: the palette and void",
    ),
    'csv = "places.csv"': (
        'csv = "places.csv"\ncolumn = "where"',
        "places.csv has no column 'where'; needed: file, where",
    ),
    'classes = ["coast", "land"]': (
        'classes = ["coast", "hill"]',
        r"places.csv, line 3: place='land' must be one of \['coast', 'hill'\], or empty",
    ),
    'name = "rooms"': ('name = "rooms"\ncolour = 1', "colour=1: Extra inputs are not permitted"),
}


@pytest.mark.parametrize("right", WRONG)
def test_what_is_wrong_with_the_description_is_named(folder: Path, right: str) -> None:
    wrong, told = WRONG[right]
    assert DESCRIPTION.count(right) == 1
    (folder / "dataset.toml").write_text(DESCRIPTION.replace(right, wrong))
    with pytest.raises(DataError, match=told) as error:
        read_vision(folder)
    assert str(folder) in str(error.value)


def test_what_is_wrong_with_a_file_is_named(folder: Path) -> None:
    save(folder / "edges" / "a.png", np.zeros((12, 8), np.uint8))
    with pytest.raises(DataError, match=r"a.png: 8 x 12 pixels; its image has 12 x 8 as it is"):
        read_vision(folder)
    save(folder / "edges" / "a.png", np.zeros((8, 12, 3), np.uint8))
    with pytest.raises(DataError, match=r"a.png: pixels are 'RGB'; allowed: 1, L"):
        read_vision(folder)
    (folder / "train.txt").write_text("a.jpg\nb.png\n")
    with pytest.raises(DataError, match=r"validation.txt, line 1: 'b.png' is in train already"):
        read_vision(folder)
    (folder / "train.txt").write_text("a.jpg\nnot.png\n")
    with pytest.raises(
        DataError, match=re.escape("train.txt, line 2: there is no image 'not.png'")
    ):
        read_vision(folder)
    (folder / "dataset.toml").unlink()
    with pytest.raises(DataError, match=r"dataset.toml does not exist"):
        read_vision(folder)


def test_scenes_become_such_a_folder(tmp_path: Path) -> None:
    counts = {"train": 3, "validation": 2, "test": 2}
    write_scenes(tmp_path / "one", counts, 48, 0, lambda _: None)
    data = read_vision(tmp_path / "one")
    assert list(data.tasks) == ["segmentation", "depth", "normals", "edges"]
    assert data.train.pixels.shape == (3, 3, 48, 48)
    lengths = data.train.truth["normals"].norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
    assert 0.5 < float(data.train.truth["depth"].mean()) < 6
    with pytest.raises(DataError, match="must be empty or not there"):
        write_scenes(tmp_path / "one", counts, 48, 0, lambda _: None)
    with pytest.raises(DataError, match="does not exist; pipe-rgbd is not obtainable"):
        write_pipe_rgbd(tmp_path / "nothing", tmp_path / "two", lambda _: None)
