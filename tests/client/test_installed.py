"""The client as its users have it: a wheel in an environment with httpx and nothing else."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.listening import ROOT
from tests.server.samples import image

pytestmark = pytest.mark.slow


def needed_by(name: str) -> Iterator[importlib.metadata.Distribution]:
    """Yield a distribution that is installed here and all that it needs, without extras."""
    waiting, seen = [name], set[str]()
    while waiting:
        if (one := waiting.pop().lower()) in seen:
            continue
        seen.add(one)
        try:
            found = importlib.metadata.distribution(one)
        except importlib.metadata.PackageNotFoundError:  # for other versions of Python
            continue
        yield found
        for requirement in found.requires or ():
            if "extra ==" not in requirement and (match := re.match(r"[\w.-]+", requirement)):
                waiting.append(match[0])


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment into which pip has put the client, made from its sdist."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist")]
    subprocess.run([*build, str(ROOT / "client")], check=True, capture_output=True)
    venv.create(folder / "venv", with_pip=True)
    interpreter = folder / "venv" / "bin" / "python"
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    for distribution in needed_by("httpx"):
        for file in distribution.files or ():
            source, target = Path(str(distribution.locate_file(file))), site / file
            if ".." not in file.parts and source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
    (wheel,) = (folder / "dist").glob("*.whl")
    # Not --no-deps: whatever else the client needed would be missing, and pip would say so.
    pip = [
        str(interpreter),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--no-index",
        str(wheel),
    ]
    subprocess.run(pip, check=True, capture_output=True)
    return interpreter


def printed(python: Path, program: str, folder: Path) -> Any:
    """Run a program as a file in a folder, which is then first on its path."""
    (folder / "program.py").write_text(program)
    done = subprocess.run(
        [python, "program.py"], cwd=folder, env={}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project that has packages and modules of the server's names."""
    for name in ("server", "models", "client"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"MINE = {name!r}")
    (tmp_path / "search.py").write_text("MINE = 'search'")
    return tmp_path


def test_importing_it_loads_nothing_of_the_server_and_nothing_heavy(
    python: Path, tmp_path: Path
) -> None:
    program = """
import json, sys
import rheostat
print(json.dumps([rheostat.__file__, sorted({name.partition(".")[0] for name in sys.modules})]))
"""
    file, loaded = printed(python, program, tmp_path)
    assert Path(file).is_relative_to(python.parents[1])
    assert {"rheostat", "httpx"} <= set(loaded)
    heavy = {"torch", "pydantic", "pydantic_core", "numpy", "fastapi", "server", "search", "models"}
    assert not heavy & set(loaded)


def test_importing_it_beside_the_server_loads_nothing_heavy_either(tmp_path: Path) -> None:
    program = """
import json, sys
import rheostat
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    loaded = printed(Path(sys.executable), program, tmp_path)
    assert not {"torch", "pydantic", "numpy", "server", "search", "models"} & set(loaded)


def test_a_project_with_packages_of_the_servers_names_can_use_it(
    python: Path, project: Path, text_url: str
) -> None:
    (project / "photo.png").write_bytes(image())
    program = f"""
import json
from pathlib import Path

import client, models, rheostat, search, server
from rheostat import Budget, Client

with Client({text_url!r}) as http:
    answer = http.infer(Path("photo.png").read_bytes(), budget=Budget(fraction=0.5))
    found = http.embed(["w1 w2", "w3"], budget=Budget(fraction=0.5))
    print(json.dumps({{
        "mine": [client.MINE, models.MINE, search.MINE, server.MINE],
        "file": rheostat.__file__,
        "label": answer.outputs[0]["fish"].label,
        "fraction": answer.receipt.fraction,
        "squares": [sum(x * x for x in vector) for vector in found.vectors],
    }}))
"""
    found = printed(python, program, project)
    assert found["mine"] == ["client", "models", "search", "server"]
    assert Path(found["file"]).is_relative_to(python.parents[1])
    assert found["label"]
    assert found["fraction"] <= 0.5
    assert found["squares"] == pytest.approx([1, 1], abs=1e-5)


def test_pip_finds_nothing_missing_and_the_version_is_the_packages(
    python: Path, tmp_path: Path
) -> None:
    subprocess.run([python, "-m", "pip", "check"], check=True, capture_output=True)
    program = """
import json
from importlib.metadata import requires, version
import rheostat
print(json.dumps([version("rheostat-client"), rheostat.__version__, requires("rheostat-client")]))
"""
    installed, own, needs = printed(python, program, tmp_path)
    assert installed == own
    assert needs == ["httpx>=0.27"]
