"""What `rheostat train vision` reads: a folder of images with a `dataset.toml`.

Truth lies beside the images: for a task with a map per image in a folder of its own, under the
image's name with `.png`; for classes in a CSV file, or in the name of the folder of the image.
What is not there is unknown, so that sets labelled for different tasks train together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.files import reading
from models.inputs import pixels
from models.inputs.image import ImageInput
from models.train.vision import UNKNOWN, Pictures, VisionData, with_known
from search.offline.csv_rows import rows_of
from search.offline.errors import DataError
from search.offline.image_files import SUFFIXES
from search.offline.vision_maps import read_map, unknown_map
from search.offline.vision_spec import FILE, ClassesSpec, DatasetSpec, SplitSpec, read_spec

SPLITS = ("train", "validation", "test")
_PNG = ".png"
_EVERY = 500  # images between two reports
_MOST_SHARES = 2**64


def read_vision(folder: Path, report: Callable[[str], None] = lambda _: None) -> VisionData:
    """Read a data set.

    Args:
        folder: With `dataset.toml`.
        report: Told what is being done, and what looks odd but may be meant.

    Raises:
        DataError: Naming the file at fault, the field or value, and what is allowed.
    """
    spec = read_spec(folder)
    images = _images(folder, spec)
    for name, task in spec.tasks.items():
        if not isinstance(task, ClassesSpec) and not (folder / task.folder).is_dir():
            raise DataError(f"{folder / FILE}: tasks.{name}.folder={task.folder!r} is no folder")
    labels = {
        name: _classes(folder, name, task, images)
        for name, task in spec.tasks.items()
        if isinstance(task, ClassesSpec)
    }
    seen: dict[bytes, str] = {}
    found: dict[str, Pictures] = {}
    for split, names in _splits(folder, spec.splits, images).items():
        if not names:
            raise DataError(f"{folder / FILE}: splits.{split} has no images")
        found[split] = _read(folder, spec, split, names, labels, seen, report)
    for name in spec.tasks:
        for split in SPLITS:
            if not len(with_known(found[split], name)):
                raise DataError(f"{folder}: nothing is known of {name!r} in the split {split!r}")
    height, width = spec.size
    colours = found["train"].pixels.float().mean(dim=(0, 2, 3)) / 255
    spread = found["train"].pixels.float().std(dim=(0, 2, 3)) / 255
    return VisionData(
        spec.name,
        {name: task.task(name) for name, task in spec.tasks.items()},
        ImageInput(height, width, _rounded(colours), _rounded(spread.clamp_min(0.01))),
        **found,
    )


def _rounded(values: Tensor) -> tuple[float, float, float]:
    red, green, blue = (round(float(value), 4) for value in values)
    return red, green, blue


def _images(folder: Path, spec: DatasetSpec) -> list[str]:
    """Return the images' names below their folder, with suffixes, sorted."""
    root = folder / spec.images
    if not root.is_dir():
        raise DataError(f"{folder / FILE}: images={spec.images!r} is no folder")
    found = [
        path.relative_to(root).as_posix()
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.is_file()
    ]
    by_stem: dict[str, str] = {}
    for name in found:
        other = by_stem.setdefault(_png(name), name)
        if other != name:
            raise DataError(f"{root}: {other} and {name} would share their maps")
    if not found:
        raise DataError(f"{root} has no images: {', '.join(SUFFIXES)}")
    return found


def _png(name: str) -> str:
    return Path(name).with_suffix(_PNG).as_posix()


def _splits(folder: Path, spec: SplitSpec, images: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {split: [] for split in SPLITS}
    if spec.train is None:
        for name in images:
            # By name, so that a set that grows keeps its splits.
            number = int.from_bytes(blake2b(name.encode(), digest_size=8).digest()) / _MOST_SHARES
            test, validation = float(spec.test), float(spec.validation)
            split = "test" if number < test else "validation"
            found[split if number < test + validation else "train"].append(name)
        return found
    known, of = set(images), dict[str, str]()
    for split in SPLITS:
        path = folder / str(getattr(spec, split))
        with reading(path, DataError):
            lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            if not (name := line.strip()):
                continue
            if name not in known:
                raise DataError(f"{path}, line {number}: there is no image {name!r}")
            if name in of:
                raise DataError(f"{path}, line {number}: {name!r} is in {of[name]} already")
            of[name] = split
            found[split].append(name)
    return found


def _classes(
    folder: Path, task: str, spec: ClassesSpec, images: Sequence[str]
) -> Mapping[str, int]:
    """Return the class of each image of which it is known."""
    number = {name: i for i, name in enumerate(spec.classes)}
    if len(number) != len(spec.classes):
        raise DataError(f"{folder / FILE}: tasks.{task}.classes has a name twice")
    allowed = f"one of {list(spec.classes)}"
    found: dict[str, int] = {}
    if spec.csv is None:
        for name in images:
            label = Path(name).parent.name
            if label not in number:
                raise DataError(f"{name}: tasks.{task}: the folder {label!r} must be {allowed}")
            found[name] = number[label]
        return found
    path, column, known = folder / spec.csv, spec.column or task, set(images)
    with reading(path, DataError):
        for place, row in rows_of(path, ("file", column)):
            name, label = row["file"] or "", (row[column] or "").strip()
            if name not in known:
                raise DataError(f"{place}: there is no image {name!r}")
            if not label:
                continue
            if label not in number:
                raise DataError(f"{place}: {column}={label!r} must be {allowed}, or empty")
            if found.setdefault(name, number[label]) != number[label]:
                raise DataError(f"{place}: {name!r} has another {column} before")
    return found


def _read(
    folder: Path,
    spec: DatasetSpec,
    split: str,
    names: Sequence[str],
    labels: Mapping[str, Mapping[str, int]],
    seen: dict[bytes, str],
    report: Callable[[str], None],
) -> Pictures:
    height, width = spec.size
    images = np.empty((len(names), 3, height, width), np.uint8)
    truth: dict[str, NDArray[Any]] = {}
    repeated = 0
    for i, name in enumerate(names):
        if i % _EVERY == 0:
            report(f"reading {split}: {i} of {len(names)} images")
        path = folder / spec.images / name
        with reading(path, DataError):
            data = path.read_bytes()
            images[i] = np.asarray(pixels.displayed(data, width, height)).transpose(2, 0, 1)
            shown = pixels.shown_size(data)
        digest = blake2b(images[i].tobytes(), digest_size=16).digest()
        repeated += seen.setdefault(digest, split) != split
        for task, of in spec.tasks.items():
            if isinstance(of, ClassesSpec):
                one = np.asarray(labels[task].get(name, UNKNOWN), np.int64)
            else:
                file = folder / of.folder / _png(name)
                known = file.is_file()
                one = (
                    read_map(of, file, shown, width, height)
                    if known
                    else unknown_map(of, width, height)
                )
            if task not in truth:
                truth[task] = np.empty((len(names), *one.shape), one.dtype)
            truth[task][i] = one
    if repeated:
        report(f"{repeated} images of {split} are in an earlier split too, pixel by pixel")
    return Pictures(
        torch.from_numpy(images), {task: torch.from_numpy(one) for task, one in truth.items()}
    )
