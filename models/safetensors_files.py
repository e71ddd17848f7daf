"""What stands at the start of a safetensors file: names, types and places of its tensors."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import torch

_MAX_HEADER_BYTES = 100_000_000


class CheckpointError(ValueError):
    """A checkpoint cannot be trusted or does not fit. The message names the file or the tensor."""


def is_safetensors(path: Path) -> bool:
    """Return whether a file begins as safetensors do."""
    try:
        header(path)
    except CheckpointError:
        return False
    return True


def header(path: Path) -> tuple[dict[str, Any], int]:
    """Return a file's header and the position where its data starts; CheckpointError for none."""
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(_MAX_HEADER_BYTES, path.stat().st_size):
            raise CheckpointError(f"{path}: not a safetensors file")
        try:
            found = json.loads(file.read(length))
        except (ValueError, RecursionError):
            raise CheckpointError(f"{path}: not a safetensors file") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: not a safetensors file")
    found.pop("__metadata__", None)
    return found, 8 + length


def check_complete(path: Path) -> None:
    """Refuse a file that ends before its tensors do; CheckpointError naming one."""
    found, data_start = header(path)
    size = path.stat().st_size - data_start
    for name, entry in found.items():
        try:
            end = int(entry["data_offsets"][1])
        except (TypeError, KeyError, IndexError, ValueError, OverflowError):
            raise CheckpointError(f"{path}: tensor {name!r} has no valid data_offsets") from None
        if end > size:
            raise CheckpointError(
                f"{path}: truncated; tensor {name!r} ends at byte {end} of {size} there are"
            )


def stored_type(path: Path) -> torch.dtype:
    """Return the floating-point type of a file's weights."""
    found, _ = header(path)
    is_half = any(entry["dtype"] == "F16" for entry in found.values())
    return torch.float16 if is_half else torch.float32
