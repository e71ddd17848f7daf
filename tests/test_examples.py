"""Examples and README's programs, run as they are written, in processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.listening import ROOT, free_port, unread
from tests.server.samples import image
from tests.tiny import write_checkpoint
from tests.tiny_text import write_text_checkpoint

EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
PRINTED = {
    "budgets": "1 FLOPs are too few",
    "images": "of the largest subnet's quality",
    "texts": "of the FLOPs saved",
}
DEFAULT_URL = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of an image and a text model, as a user runs one."""
    folder, port = tmp_path_factory.mktemp("models"), free_port()
    write_checkpoint(folder / "tiny")
    write_text_checkpoint(folder / "tiny-text")
    kept = tmp_path_factory.mktemp("kept")
    arguments = ["serve", "--models", str(folder), "--port", str(port), "--backend", "torch"]
    arguments += ["--database", f"sqlite:///{kept / 'clients.db'}", "--profiles", str(kept)]
    with unread([sys.executable, "-m", "server", *arguments]):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with what the examples read."""
    (tmp_path / "photo.jpg").write_bytes(image())
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"w1 w2 {name}")
    return tmp_path


def python(command: str, cwd: Path, url: str) -> str:
    """Run a shell command that begins with python, and return what it prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SERVER_URL": url}
    done = subprocess.run(
        command, shell=True, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def written(example: Path) -> str:
    """Return the command that an example's own text gives."""
    found = re.search(r"then: (python .*)", example.read_text())
    assert found, f"{example} does not say how to run it"
    return found[1]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_from_the_repositorys_root_as_it_says(
    example: Path, url: str, files: Path
) -> None:
    for entry in ROOT.iterdir():  # the root, with the files that the example reads
        (files / entry.name).symlink_to(entry)
    assert PRINTED[example.stem] in python(written(example), files, url)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_from_another_folder(example: Path, url: str, files: Path) -> None:
    command = written(example).replace("docs/examples", str(example.parent))
    assert PRINTED[example.stem] in python(command, files, url)


def test_examples_are_short_and_hide_no_package() -> None:
    names = {path.stem for path in EXAMPLES}
    assert names == set(PRINTED)
    assert not names & ({path.stem for path in ROOT.iterdir()} | sys.stdlib_module_names)
    assert all(len(path.read_text().splitlines()) <= 40 for path in EXAMPLES)


def client_programs(page: str) -> list[str]:
    """Return the programs on a page that use the client."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    return [block for block in blocks if "from rheostat import" in block]


@pytest.mark.parametrize(
    ("page", "printed"),
    [
        ("README.md", r"\w+ \d+"),
        ("client/README.md", r"\w+ \d+"),
        ("docs/guides/client.md", r"3 texts embedded"),
    ],
)
def test_a_pages_programs_with_the_client_run_from_another_folder(
    page: str, printed: str, url: str, files: Path
) -> None:
    program = "\n".join(client_programs(page))
    assert DEFAULT_URL in program
    (files / "program.py").write_text(program.replace(DEFAULT_URL, url))
    assert re.search(printed, python("python program.py", files, url))
