"""The same weights in the forms that the servers read, each made once."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.peers.environments import InstallError, python_of

# sentence-transformers' two back ends want versions of transformers that do not go together.
ENVIRONMENTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "st-onnx": (
        ("sentence-transformers[onnx]==5.7.0", "optimum-onnx==0.1.0", "transformers==4.57.6"),
        (),
    ),
    "st-openvino": (
        ("sentence-transformers[openvino]==6.2.0", "optimum-intel==2.2.0", "transformers==5.5.4"),
        # A build for CUDA, which torch for CPUs refuses to work with; texts do without it.
        ("torchvision",),
    ),
}
_WEB = ("fastapi==0.165.0", "uvicorn[standard]==0.54.0")
_APPS = Path(__file__).parent / "apps"


@dataclass(frozen=True)
class Weights:
    """One model, and where its other forms are kept.

    Attributes:
        envs: Folder of the environments.
        source: A sentence-transformers folder.
        texts: Returns the texts on which ranges of activations are measured.
    """

    envs: Path
    source: Path
    texts: Callable[[], Sequence[str]]

    def folder(self, form: str) -> Path:
        """Return the folder of a form.

        Args:
            form: ``torch``, ``onnx``, ``onnx-int8``, ``openvino`` or ``openvino-int8``.

        Raises:
            InstallError: If it cannot be made here.
        """
        if form == "torch":
            return self.source
        engine = form.removesuffix("-int8")
        python = environment(self.envs, f"st-{engine}")
        models = python.parents[1] / "models"
        if not models.is_dir():
            self._export(python, engine, models)
        return models / form

    def _export(self, python: Path, engine: str, out: Path) -> None:
        part = out.with_name(f"{out.name}.part")
        command = [str(python), str(_APPS / f"export_{engine}.py"), str(self.source), str(part)]
        if engine == "openvino":
            texts = out.with_name("texts.json")
            texts.write_text(json.dumps(list(self.texts())))
            command.append(str(texts))
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            last = done.stderr.strip().rpartition("\n")[2]
            raise InstallError(f"export for {engine}: {last}")
        part.rename(out)  # so that an interrupted export is no model


def environment(envs: Path, name: str) -> Path:
    """Return the interpreter of one of the two environments that export.

    Raises:
        InstallError: If it cannot be made here.
    """
    requirements, unwanted = ENVIRONMENTS[name]
    return python_of(envs / name, (*requirements, *_WEB), unwanted)
