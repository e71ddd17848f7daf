"""Checkpoints: a folder with a JSON manifest and safetensors files, and nothing that runs code.

``manifest.json`` names the family, its configuration and the size and SHA-256 of every other file.
Weights may be stored in float16; they are computed with in float32. A pickle is refused, whatever
its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models import families
from models.files import read_json, reading, replacing
from models.nn.static import Static
from models.safetensors_files import CheckpointError as CheckpointError
from models.safetensors_files import check_complete, header, is_safetensors

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
_PICKLE_SUFFIXES = {".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt"}
_PICKLE_STARTS = (b"\x80", b"PK\x03\x04")  # bare pickle; zip, as written by torch.save

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*$"
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]


class FileRecord(BaseModel):
    """Size and digest of one file of the checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    sha256: str


class Manifest(BaseModel):
    """The contents of ``manifest.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=NAME, max_length=100)]
    family: str
    version: str = "1"
    config: dict[str, Any]
    files: dict[FileName, FileRecord]
    origin: str | None = None  # digest of the weights that first gave these vectors

    @property
    def vectors(self) -> str:
        """Digest of the weights that first gave the largest subnet's vectors."""
        return self.origin or self.files[WEIGHTS].sha256

    @property
    def digest(self) -> str:
        """What is equal for equal checkpoints: the manifest has the digests of all files."""
        return hashlib.sha256(self.model_dump_json(exclude_none=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint: its folder, manifest and model, in evaluation mode on the CPU."""

    folder: Path
    manifest: Manifest
    model: Any  # an `Elastic` that is an nn.Module; Python cannot spell the intersection


class _Undrawn(TorchFunctionMode):
    """Leaves new weights as memory has them, where those of a file replace them all.

    On the meta device the first random draw would import torch's compiler, which takes 2 s.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def save(
    folder: Path,
    model: Any,
    family: str,
    dtype: torch.dtype = torch.float16,
    files: Iterable[str] = (),
    before: Manifest | None = None,
) -> Manifest:
    """Write a model's weights and manifest.

    Args:
        folder: Made if needed.
        model: Built by the family; its ``name`` and ``config`` go into the manifest.
        family: Name of the family.
        dtype: Floating-point type on disk.
        files: Names of files already in the folder that the manifest shall cover as well.
        before: Of the same model, whose vectors stay what they are; None for a new model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    with replacing(folder / WEIGHTS) as part:
        save_file(state, part)
    manifest = Manifest(
        name=model.name,
        family=family,
        version=before.version if before else "1",
        config=families.as_json(model.config),
        files={name: _record(folder / name) for name in (WEIGHTS, *files)},
        origin=before.vectors if before else None,
    )
    write_manifest(folder, manifest)
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a checkpoint's manifest."""
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1, exclude_none=True) + "\n")


def cover(folder: Path, name: str) -> Manifest:
    """Add a file of the folder to the manifest, or record its new digest."""
    manifest = read_manifest(folder)
    files = {**manifest.files, name: _record(folder / name)}
    manifest = manifest.model_copy(update={"files": files})
    write_manifest(folder, manifest)
    return manifest


def load(folder: Path, with_weights: bool = True) -> Checkpoint:
    """Read and verify a checkpoint.

    Args:
        folder: Of the checkpoint.
        with_weights: Whether its model can run. If not, it can be planned with and no more: its
            weights are on the meta device and take no memory, and their file is not read, but for
            those of exits without layers (`models.nn.static`).

    Raises:
        CheckpointError: If a file is missing, truncated, altered or a pickle, the family or its
            configuration is unknown, or a tensor is missing, unexpected or of the wrong shape.
    """
    manifest = read_manifest(folder)
    verify(folder, manifest, with_weights)
    with reading(folder / MANIFEST, CheckpointError):
        try:
            family = families.get(manifest.family)
            config: Any = TypeAdapter(family.config).validate_python(manifest.config)
            with torch.device("meta"), _Undrawn():  # no memory before it is known to be needed
                model: Any = family.build(manifest.name, config)
            _check_shapes(model.state_dict(), folder / WEIGHTS)
            if with_weights:
                with _Undrawn():
                    model = family.build(manifest.name, config)
            _attach(model, manifest, folder)
        except ValidationError as error:
            raise CheckpointError(f"{folder / MANIFEST}: {_plain(error)}") from None
    if with_weights:
        with reading(folder / WEIGHTS, CheckpointError):
            _fill(model, load_file(folder / WEIGHTS), folder / WEIGHTS)
    else:
        with reading(folder / WEIGHTS, CheckpointError):
            _fill_static(model, folder / WEIGHTS)
    return Checkpoint(folder, manifest, model.eval().requires_grad_(False))


def verify(folder: Path, manifest: Manifest, with_weights: bool = True) -> None:
    """Check the files of a checkpoint against its manifest; CheckpointError that names one."""
    for name, record in manifest.files.items():
        if with_weights or name != WEIGHTS:
            _verify(folder / name, record)


def read_manifest(folder: Path) -> Manifest:
    """Read ``manifest.json`` without touching the weights.

    Raises:
        CheckpointError: If it is missing or not a manifest.
    """
    path = folder / MANIFEST
    if not path.is_file():
        pickles = sorted(p.name for p in folder.glob("*") if p.suffix in _PICKLE_SUFFIXES)
        hint = f"; {pickles[0]} is a pickle, which is refused" if pickles else ""
        raise CheckpointError(f"{path} does not exist{hint}")
    values = read_json(path, CheckpointError)
    with reading(path, CheckpointError):
        try:
            manifest = Manifest.model_validate(values)
        except ValidationError as error:
            raise CheckpointError(f"{path}: {_plain(error)}") from None
    if WEIGHTS not in manifest.files:
        raise CheckpointError(f"{path}: files does not name {WEIGHTS}")
    return manifest


def _attach(model: Any, manifest: Manifest, folder: Path) -> None:
    """Let a model read the files it lists in ``assets``, a tokenizer for instance."""
    assets = getattr(model, "assets", ())
    for name in assets:
        if name not in manifest.files:
            raise ValueError(f"files does not name {name}")
    if assets:
        model.attach(folder)


def _fill_static(model: Any, path: Path) -> None:
    """Read the weights of exits without layers alone."""
    exits = {name: one for name, one in model.named_modules() if isinstance(one, Static)}
    if not exits:
        return
    with safe_open(path, "pt") as file:
        for name, one in exits.items():
            for own in dict(one.named_parameters()):
                setattr(one, own, nn.Parameter(file.get_tensor(f"{name}.{own}").float()))


def _record(path: Path) -> FileRecord:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(bytes=path.stat().st_size, sha256=digest)


def _verify(path: Path, expected: FileRecord) -> None:
    """Check one file against the manifest, the most telling error first."""
    if path.suffix in _PICKLE_SUFFIXES:
        raise CheckpointError(f"{path}: pickles are refused; convert it to safetensors")
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist, but the manifest names it")
    with path.open("rb") as file:
        start = file.read(8)
    if path.suffix == ".safetensors":
        if start.startswith(_PICKLE_STARTS) and not is_safetensors(path):
            raise CheckpointError(f"{path}: a pickle under another name; pickles are refused")
        check_complete(path)
    found = _record(path)
    if found != expected:
        raise CheckpointError(
            f"{path}: altered; it has {found.bytes} bytes and SHA-256 {found.sha256}, the manifest "
            f"says {expected.bytes} and {expected.sha256}"
        )


def _check_shapes(expected: Mapping[str, Tensor], path: Path) -> None:
    """Compare the tensors that the configuration needs with what the file says it holds."""
    found, _ = header(path)
    for name, tensor in expected.items():
        if name not in found:
            raise CheckpointError(f"{path}: tensor {name!r} is missing")
        if (shape := found[name].get("shape")) != list(tensor.shape):
            raise CheckpointError(
                f"{path}: tensor {name!r} has shape {shape}, the configuration needs "
                f"{list(tensor.shape)}"
            )
    if extra := sorted(found.keys() - expected.keys()):
        raise CheckpointError(f"{path}: tensor {extra[0]!r} is not part of the model")


def _fill(model: nn.Module, found: dict[str, Tensor], path: Path) -> None:
    """Give copies of the tensors to the model, in the model's own floating-point type."""
    state = {name: found[name].to(t.dtype, copy=True) for name, t in model.state_dict().items()}
    for name, tensor in state.items():
        # Least and greatest are NaN where any value is; `isfinite` would write three copies.
        if tensor.is_floating_point() and not torch.stack(tensor.aminmax()).isfinite().all():
            raise CheckpointError(f"{path}: tensor {name!r} holds a value that is not finite")
    model.load_state_dict(state, assign=True)


def _plain(error: ValidationError) -> str:
    """Return pydantic's report on one line."""
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'manifest'}: {item['msg']}"
        for item in error.errors(include_url=False)
    )
