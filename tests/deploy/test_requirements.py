"""What the images install before server and client."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.deploy.tools import DEPLOY, ROOT


def test_requirements_are_those_of_server_client_and_extras(tmp_path: Path) -> None:
    (tmp_path / "client").mkdir()
    for name in ("pyproject.toml", "client/pyproject.toml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    command = [sys.executable, str(DEPLOY / "requirements.py"), "cpu", "postgres"]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    names = {line.partition(">=")[0] for line in done.stdout.splitlines()}
    assert {"torch", "httpx", "onnxruntime", "asyncpg"} <= names
    assert not {"pytest", "grpcio", "ray[serve]"} & names
