"""Programs and commands of README and guides, run as they are written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.listening import ROOT, free_port, unread
from tests.server.samples import image

pytestmark = pytest.mark.slow

ADDRESS = "127.0.0.1:8000"  # as pages have it
ZOO = ROOT / "models" / "zoo"
GUIDES = ROOT / "docs" / "guides"
PRINTED = {  # of programs in Python, by page
    "text.md": "2 vectors of 128 dimensions",
    "ranking.md": r"0 \[\d, \d, \d\] [\d.]+\npin [\d.]+ of 3 queries",
    "protocols.md": r"\(2, 128\) \d+",
    "operations.md": "^$",
}
ASKED = (ROOT / "README.md", GUIDES / "text.md", GUIDES / "images.md")  # pages with curl


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the shipped models, as `make serve` starts one, but for what computes."""
    kept, port = tmp_path_factory.mktemp("kept"), free_port()
    arguments = ["serve", "--port", str(port), "--backend", "torch", "--profiles", str(kept)]
    arguments += ["--database", f"sqlite:///{kept / 'clients.db'}"]
    with unread([sys.executable, "-m", "server", *arguments]):
        yield f"127.0.0.1:{port}"


def blocks(page: Path, language: str) -> list[str]:
    """Return a page's blocks of code."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    """Return the commands of a page that ask the server."""
    return [block for block in blocks(page, "bash") if "curl" in block]


def run(command: list[str], cwd: Path, **environment: str) -> str:
    """Run a command and return what it prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_the_programs_of_a_guide_run(name: str, address: str, tmp_path: Path) -> None:
    programs = blocks(GUIDES / name, "python")
    assert programs
    for program in programs:
        assert ADDRESS in program
        (tmp_path / "program.py").write_text(program.replace(ADDRESS, address))
        assert re.search(PRINTED[name], run([sys.executable, "program.py"], tmp_path).strip())


@pytest.mark.parametrize("page", ASKED, ids=lambda page: page.stem)
def test_the_commands_of_a_page_are_answered(page: Path, address: str, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(image())
    assert commands(page)
    for command in commands(page):
        assert ADDRESS in command
        answer = json.loads(run(["bash", "-c", command.replace(ADDRESS, address)], tmp_path))
        assert "receipt" in answer, answer


def test_the_commands_for_a_terminal_are_answered(address: str, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(image())
    (tmp_path / "texts.txt").write_text("I forgot my login.\nThe weather is fine.\n")
    (block,) = blocks(GUIDES / "command-line.md", "bash")
    printed = run(["bash", "-ec", block], tmp_path, RHEOSTAT_URL=f"http://{address}")
    assert printed.count("subnet ") == 4
    assert (tmp_path / "vectors.npy").exists()


def test_the_first_answer_in_readme_is_what_the_server_says(address: str, tmp_path: Path) -> None:
    (command,) = commands(ROOT / "README.md")
    (written,) = (json.loads(block) for block in blocks(ROOT / "README.md", "json"))
    found = json.loads(run(["bash", "-c", command.replace(ADDRESS, address)], tmp_path))
    assert written["scores"] == pytest.approx(found["scores"], abs=1e-3)
    assert _without_times(written["receipt"]) == _without_times(found["receipt"])
    assert written["receipt"].keys() == found["receipt"].keys()
    assert written["receipt"]["milliseconds"].keys() == found["receipt"]["milliseconds"].keys()


def _without_times(receipt: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in receipt.items() if k not in ("milliseconds", "predicted_run_ms")}


def test_the_first_keys_and_client_are_made_as_the_guide_says(tmp_path: Path) -> None:
    (block,) = (b for b in blocks(GUIDES / "operations.md", "") if "keys create" in b)
    database, port = f"sqlite:///{tmp_path / 'clients.db'}", free_port()
    arguments = ["serve", "--models", str(ZOO / "cifar100-mtl"), "--port", str(port)]
    arguments += ["--backend", "torch", "--database", database, "--profiles", str(tmp_path)]
    block = block.replace(ADDRESS, f"127.0.0.1:{port}").replace("curl", "curl -s --fail-with-body")
    with unread([sys.executable, "-m", "server", *arguments]):
        printed = run(["bash", "-ec", block], tmp_path, RHEOSTAT_DATABASE=database)
    stored, key = json.JSONDecoder().raw_decode(printed)
    assert stored["id"] == "shop"
    assert printed[key:].strip()


def test_a_folder_of_images_becomes_a_model_as_the_guide_says(tmp_path: Path) -> None:
    made, asked, _ = blocks(GUIDES / "own-images.md", "bash")
    sizes = "--train 4000 --validation 200 --test 500"
    dataset, train, serve = made.splitlines()
    assert sizes in dataset
    run(["bash", "-ec", dataset.replace(sizes, "--train 20 --validation 4 --test 4")], tmp_path)
    run(["bash", "-ec", f"{train} --steps 2"], tmp_path)
    port = free_port()
    assert serve == "rheostat serve --models models/rooms"
    arguments = ["serve", "--models", str(tmp_path / "models/rooms"), "--port", str(port)]
    arguments += ["--backend", "torch", "--profiles", str(tmp_path)]
    with unread([sys.executable, "-m", "server", *arguments]):
        asked = asked.replace(ADDRESS, f"127.0.0.1:{port}").replace("004699", "000027")
        answer = json.loads(run(["bash", "-ec", asked], tmp_path))
    assert answer["outputs"][0]["segmentation"]["width"] == 96
    assert answer["receipt"]["fraction"] <= 0.3
