"""What `rheostat dataset` does: sets of other forms become folders with a `dataset.toml`."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.train import cifar100
from models.train.scenes import CLASSES, draw_scene, edges_of, render
from search.offline.errors import DataError
from search.offline.vision_data import SPLITS
from search.offline.vision_spec import FILE

Report: TypeAlias = Callable[[str], None]
Tasks: TypeAlias = Mapping[str, Mapping[str, object]]
_MILLIMETRE = 0.001
_MOST_STORED = 65535
_EVERY = 500  # images between two reports
_CAMVID = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
_UNLABELLED = 11  # of CamVid
_PIPE = ("background", "pit", "scratch")  # by eye; the origin gives no names


def write_scenes(
    out: Path, counts: Mapping[str, int], size: int, seed: int, report: Report
) -> None:
    """Render rooms.

    Args:
        out: Folder that is made.
        counts: Images of each split.
        size: Height and width, pixels.
        seed: Of all scenes; splits have scenes of their own.
        report: Told how far it is.

    Raises:
        DataError: If the folder has files already.
    """
    _make(out, ("images", "labels", "depth", "normals", "edges"))
    number, total = 0, sum(counts.values())
    names: dict[str, list[str]] = {}
    for split in SPLITS:
        names[split] = []
        for _ in range(counts[split]):
            found = render(draw_scene(seed, number), size, size)
            name = f"{number:06}.png"
            depth = (found.depth / _MILLIMETRE).round().clip(0, _MOST_STORED).astype(np.uint16)
            normals = (255 * (found.normals + 1) / 2).round().astype(np.uint8)
            _save(out / "images" / name, found.pixels)
            _save(out / "labels" / name, found.labels)
            _save(out / "depth" / name, depth)
            _save(out / "normals" / name, normals)
            _save(out / "edges" / name, found.edges * np.uint8(255))
            names[split].append(name)
            number += 1
            if number % _EVERY == 0:
                report(f"rendered {number} of {total} scenes")
    tasks: Tasks = {
        "segmentation": {"kind": "labels", "folder": "labels", "classes": CLASSES},
        "depth": {"kind": "depth", "folder": "depth", "scale": _MILLIMETRE, "unit": "m"},
        "normals": {"kind": "normals", "folder": "normals"},
        "edges": {"kind": "edges", "folder": "edges"},
    }
    _finish(out, "scenes", (size, size), names, tasks)


def write_camvid(source: Path, out: Path, report: Report) -> None:
    """Write CamVid: its 11 classes, and the edges between them.

    Raises:
        DataError: If the folder has files already, or the data set is not there.
    """
    _need(source, "camvid")
    _make(out, ("images", "labels", "edges"))
    names: dict[str, list[str]] = {}
    for split, theirs in zip(SPLITS, ("train", "val", "test"), strict=True):
        report(f"writing {split}")
        names[split] = []
        for path in sorted((source / theirs).glob("*.jpg")):
            shutil.copyfile(path, out / "images" / path.name)
            with Image.open(path.with_suffix(".label.png")) as image:
                labels = np.asarray(image)
            _save(out / "labels" / f"{path.stem}.png", labels)
            _save(out / "edges" / f"{path.stem}.png", edges_of(labels) * np.uint8(255))
            names[split].append(path.name)
    tasks: Tasks = {
        "segmentation": {
            "kind": "labels",
            "folder": "labels",
            "classes": _CAMVID,
            "void": (_UNLABELLED,),
        },
        "edges": {"kind": "edges", "folder": "edges"},
    }
    _finish(out, "camvid", (144, 192), names, tasks)


def write_pipe_rgbd(source: Path, out: Path, report: Report) -> None:
    """Write pipe-rgbd; every fifth image of its train list becomes the validation split.

    Raises:
        DataError: If the folder has files already, or the data set is not there.
    """
    _need(source, "pipe-rgbd")
    report("copying")
    _make(out, ())
    for folder in ("rgb", "labels", "depth", "normal"):
        shutil.copytree(source / folder, out / folder)
    listed = (source / "train.txt").read_text().split()
    names = {
        "train": [name for i, name in enumerate(listed) if i % 5],
        "validation": listed[::5],
        "test": (source / "val.txt").read_text().split(),
    }
    tasks: Tasks = {
        "segmentation": {"kind": "labels", "folder": "labels", "classes": _PIPE},
        "depth": {"kind": "depth", "folder": "depth", "scale": 1 / 255, "unit": "", "void": ()},
        "normals": {"kind": "normals", "folder": "normal"},
    }
    _finish(out, "pipe-rgbd", (96, 160), names, tasks, "rgb")


def write_cifar100(source: Path, out: Path, report: Report) -> None:
    """Write CIFAR100-MTL: 20 five-way tasks, each image known for one of them.

    Raises:
        DataError: If the folder has files already.
        FileNotFoundError: If the data set is not there.
    """
    data = cifar100.load(source)
    _make(out, ("images",))
    tasks = list(data.tasks)
    names: dict[str, list[str]] = {}
    with (out / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.DictWriter(file, ("file", *tasks), restval="")
        rows.writeheader()
        for split in SPLITS:
            report(f"writing {split}")
            names[split] = []
            images: cifar100.Images = getattr(data, split)
            for i in range(len(images)):
                name, task = f"{split}-{i:05}.png", tasks[int(images.task[i])]
                _save(out / "images" / name, images.pixels[i].permute(1, 2, 0).numpy())
                rows.writerow({"file": name, task: data.tasks[task][int(images.label[i])]})
                names[split].append(name)
    described: Tasks = {
        task: {"kind": "classes", "classes": classes, "csv": "labels.csv"}
        for task, classes in data.tasks.items()
    }
    _finish(out, "cifar100", (32, 32), names, described)


def _need(source: Path, name: str) -> None:
    if not source.is_dir():
        raise DataError(f"{source} does not exist; {name} is not obtainable by this command")


def _make(out: Path, folders: Sequence[str]) -> None:
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} must be empty or not there")
    for folder in (".", *folders):
        (out / folder).mkdir(parents=True, exist_ok=True)


def _save(path: Path, values: NDArray[Any]) -> None:
    Image.fromarray(values).save(path, "PNG", compress_level=1)


def _finish(
    out: Path,
    name: str,
    size: tuple[int, int],
    names: Mapping[str, Sequence[str]],
    tasks: Tasks,
    images: str = "images",
) -> None:
    """Write the lists of the splits and the description, which makes the folder a data set."""
    for split, own in names.items():
        (out / f"{split}.txt").write_text("".join(f"{one}\n" for one in own))
    lines = [f"name = {_toml(name)}", f"images = {_toml(images)}", f"size = {_toml(size)}"]
    lines += ["", "[splits]", *(f"{split} = {_toml(f'{split}.txt')}" for split in SPLITS)]
    for task, fields in tasks.items():
        lines += ["", f"[tasks.{task}]", *(f"{key} = {_toml(v)}" for key, v in fields.items())]
    (out / FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _toml(value: object) -> str:
    """Return a text, a number or a list of them as TOML has it, which JSON spells alike."""
    return json.dumps(value, ensure_ascii=False)
