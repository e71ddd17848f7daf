"""What `dataset.toml` says of a folder of images: tasks, splits and how their files are read."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.files import reading
from models.tasks import Metric, Task
from models.train.vision import VOID
from search.offline.errors import DataError

FILE = "dataset.toml"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
_COLOUR = r"^#[0-9a-fA-F]{6}$"
_SIZES = Field(ge=8, le=2048)
_BYTE = Field(ge=0, le=VOID)
EDGE_LABELS = ("none", "edge")
NORMAL_CHANNELS = ("right", "up", "towards the camera")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassesSpec(_Strict):
    """One class for an image: from a column of a CSV file, or the name of the image's folder."""

    kind: Literal["classes"]
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    csv: str | None = None
    column: str | None = None

    def task(self, name: str) -> Task:
        """Return the task as models have it."""
        return Task(name, "classes", self.classes)


class LabelsSpec(_Strict):
    """A class for each pixel: PNG files of numbers, or of colours with a palette."""

    kind: Literal["labels"]
    folder: str
    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=VOID)]
    palette: tuple[Annotated[str, Field(pattern=_COLOUR)], ...] | None = None
    void: tuple[Annotated[int, _BYTE] | Annotated[str, Field(pattern=_COLOUR)], ...] = ()

    @model_validator(mode="after")
    def _check(self) -> LabelsSpec:
        if self.palette is not None and len(self.palette) != len(self.classes):
            raise ValueError(
                f"palette has {len(self.palette)} colours for {len(self.classes)} classes"
            )
        kind = int if self.palette is None else str
        if wrong := [one for one in self.void if not isinstance(one, kind)]:
            raise ValueError(f"void has {wrong[0]!r}; with a palette colours, else numbers")
        if numbers := [one for one in self.void if one in range(len(self.classes))]:
            raise ValueError(f"void has {numbers[0]}, which is {self.classes[int(numbers[0])]!r}")
        return self

    def task(self, name: str) -> Task:
        """Return the task as models have it."""
        return Task(name, "map", self.classes, "miou")


class EdgesSpec(_Strict):
    """Whether each pixel is on an edge: grey PNG files, from a threshold on."""

    kind: Literal["edges"]
    folder: str
    threshold: Annotated[int, Field(ge=1, le=VOID)] = 128

    def task(self, name: str) -> Task:
        """Return the task as models have it."""
        return Task(name, "map", EDGE_LABELS, "f1")


class DepthSpec(_Strict):
    """A number for each pixel: grey PNG files of 8 or 16 bits and a scale."""

    kind: Literal["depth"]
    folder: str
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    unit: str = "m"
    void: tuple[Annotated[int, Field(ge=0, le=65535)], ...] = (0,)

    def task(self, name: str) -> Task:
        """Return the task as models have it."""
        return Task(name, "map", (), "rmse", self.unit, ("distance",))


class NormalsSpec(_Strict):
    """A direction for each pixel: coloured PNG files, n = 2 v / 255 - 1 in each channel."""

    kind: Literal["normals"]
    folder: str

    def task(self, name: str) -> Task:
        """Return the task as models have it."""
        metric: Metric = "mean_angular_error"
        return Task(name, "map", (), metric, "", NORMAL_CHANNELS)


TaskSpec: TypeAlias = Annotated[
    ClassesSpec | LabelsSpec | EdgesSpec | DepthSpec | NormalsSpec, Field(discriminator="kind")
]


class SplitSpec(_Strict):
    """Lists of images, or shares of them, drawn by name."""

    train: str | None = None
    validation: str | Annotated[float, Field(gt=0, lt=1)]
    test: str | Annotated[float, Field(gt=0, lt=1)]

    @model_validator(mode="after")
    def _check(self) -> SplitSpec:
        lists = [isinstance(one, str) for one in (self.validation, self.test)]
        if lists != [self.train is not None] * 2:
            raise ValueError("train, validation and test are three lists, or two shares")
        if not any(lists) and float(self.validation) + float(self.test) >= 1:
            raise ValueError("validation and test leave nothing to train on")
        return self


class DatasetSpec(_Strict):
    """The whole file."""

    name: Annotated[str, Field(pattern=_NAME)]
    images: str = "images"
    size: tuple[Annotated[int, _SIZES], Annotated[int, _SIZES]]  # height, width
    splits: SplitSpec
    tasks: Annotated[dict[Annotated[str, Field(pattern=_NAME)], TaskSpec], Field(min_length=1)]


def read_spec(folder: Path) -> DatasetSpec:
    """Read the description of a data set.

    Raises:
        DataError: Naming the file, the field, its value and what is allowed.
    """
    path = folder / FILE
    with reading(path, DataError):
        if not path.is_file():
            raise DataError(f"{path} does not exist; it says what is in the folder")
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise DataError(f"{path}: not TOML: {error}") from None
        try:
            return DatasetSpec.model_validate(values)
        except ValidationError as error:
            raise DataError(f"{path}: {_told(error.errors(include_url=False)[0])}") from None


def _told(error: Any) -> str:
    """Return the first thing that is wrong: its field, its value and what is allowed."""
    kinds = ("classes", "labels", "edges", "depth", "normals")
    parts = [str(part) for part in error["loc"]]
    if parts[:1] == ["tasks"]:  # the kind stands after the name once more
        parts = parts[:2] + [part for part in parts[2:3] if part not in kinds] + parts[3:]
    field = ".".join(parts) or "file"
    if error["type"] == "missing":
        return f"{field} is missing"
    if error["type"] == "value_error":
        return f"{field}: {error['ctx']['error']}"
    return f"{field}={error['input']!r}: {error['msg']}"
