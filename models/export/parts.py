"""What every writer of a public folder needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from models.files import replacing

WEIGHTS = "model.safetensors"


class ExportError(ValueError):
    """A subnet cannot be written. The message says what is in the way, and what is allowed."""


class Folder:
    """The folder that is written.

    Attributes:
        path: Of the folder.
        layout: What the weights' layout is called; None if there are no weights beside the ONNX
            file.
        card: Lines of the card about that layout.
        remarks: What a user should read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.layout: str | None = None
        self.card: list[str] = []
        self.remarks: list[str] = []

    def remark(self, text: str) -> None:
        """Add a remark."""
        self.remarks.append(text)

    def write_json(self, name: str, values: Any) -> None:
        """Write a JSON file, with the folders above it."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n")

    def write_tensors(self, tensors: Mapping[str, Tensor], name: str = WEIGHTS) -> None:
        """Write tensors as float32, as transformers expects them to be labelled."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            key: tensor.detach().float().contiguous().clone() for key, tensor in tensors.items()
        }
        with replacing(path) as part:
            save_file(state, part, metadata={"format": "pt"})
