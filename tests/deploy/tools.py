"""Programs that these tests run where they are installed, and the processes that they start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DEADLINE_S = 120


def tool(name: str) -> str:
    """Return the path of a program, or skip the test."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"needs {name}")
    return found


def run(*command: str | Path) -> str:
    """Run a program to its end and return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def started(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program beside the test; what it prints goes to a file."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def answers(client: httpx.Client, path: str) -> bool:
    """Whether a server gives a path with success."""
    try:
        return client.get(path).is_success
    except httpx.TransportError:
        return False


def wait_until(
    is_so: Callable[[], bool],
    process: subprocess.Popen[bytes],
    log: Path,
    deadline_s: float = DEADLINE_S,
) -> None:
    """Ask again until it is so, the process has ended, or the deadline is over."""
    end = time.monotonic() + deadline_s
    while not is_so():
        text = log.read_text()[-4000:]
        assert process.poll() is None, text
        assert time.monotonic() < end, text
        time.sleep(0.1)
