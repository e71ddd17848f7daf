"""A virtual environment per peer, made once and used again.

Pip reads its own settings: where the default index carries torch with CUDA, name torch's CPU index
in pip's configuration or in `PIP_EXTRA_INDEX_URL`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

_STAMP = "installed.txt"
_CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


class InstallError(RuntimeError):
    """A peer cannot be installed here; the message is one line."""


def python_of(folder: Path, requirements: Sequence[str], unwanted: Sequence[str] = ()) -> Path:
    """Return the interpreter of an environment that holds these requirements.

    An environment that holds others, or is not complete, is made anew.

    Args:
        folder: Of the environment.
        requirements: As pip reads them, versions pinned.
        unwanted: Packages that come along, and are removed again.

    Raises:
        InstallError: With the last thing pip complained about.
    """
    python = folder / "bin" / "python"
    torch = _torch()
    wanted = "\n".join([torch, *requirements]) + "\n"
    stamp = folder / _STAMP
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    print(f"installing {requirements[0]} into {folder}; this takes minutes", file=sys.stderr)
    if (folder / "pyvenv.cfg").is_file():
        shutil.rmtree(folder)  # never a folder that is no environment
    try:
        venv.create(folder, with_pip=True)
    except (subprocess.CalledProcessError, OSError) as error:
        raise InstallError(f"no virtual environment in {folder}: {error}") from None
    # Torch goes first and alone: its exact version decides which build everything else meets.
    _pip(python, "install", torch)
    constraints = folder / "constraints.txt"
    constraints.write_text(torch + "\n")
    _pip(python, "install", "-c", str(constraints), *requirements)
    if unwanted:
        _pip(python, "uninstall", "--yes", *unwanted)
    stamp.write_text(wanted)
    return python


def _torch() -> str:
    """Return the requirement that this repository pins torch with."""
    lines = _CONSTRAINTS.read_text().splitlines()
    return next(line for line in lines if line.startswith("torch=="))


def _pip(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        last = lines[-1] if lines else done.stderr.strip().rpartition("\n")[2]
        raise InstallError(f"pip: {last.removeprefix('ERROR: ')}")
