"""The package names are generic: prove that they are ours, and that the wheels are complete."""

import importlib.metadata
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath
from types import ModuleType

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import models
import rheostat
import search
import server
from tests.server.listening import DEADLINE_S, free_port, unread
from tests.server.samples import image, text_of
from tests.tiny import write_checkpoint
from tests.tiny_text import write_text_checkpoint

PACKAGES = (models, search, server)
NAMES = {package.__name__ for package in PACKAGES}
OWNERS = {**dict.fromkeys(NAMES, "rheostat"), "rheostat": "rheostat-client"}
DISTRIBUTIONS = [(".", "rheostat", NAMES), ("client", "rheostat_client", {"rheostat"})]


def folder(package: ModuleType) -> Path:
    return Path(package.__path__[0]).resolve()


def shipped_files(root: Path, names: set[str]) -> set[str]:
    """Name every file below some packages, bytecode and hidden files aside."""
    paths = (path for name in names for path in (root / name).rglob("*") if path.is_file())
    relative = (path.relative_to(root) for path in paths)
    return {
        path.as_posix()
        for path in relative
        if not any(part == "__pycache__" or part.startswith(".") for part in path.parts)
    }


def test_the_packages_share_one_root() -> None:
    roots = {folder(package).parent for package in PACKAGES}
    assert len(roots) == 1, roots


def test_no_other_distribution_ships_our_package_names() -> None:
    owners = importlib.metadata.packages_distributions()
    strangers = {name: set(owners.get(name, [])) - {owner} for name, owner in OWNERS.items()}
    assert not any(strangers.values()), strangers


@pytest.mark.parametrize("package", [*PACKAGES, rheostat], ids=lambda package: package.__name__)
def test_every_package_is_marked_as_typed(package: ModuleType) -> None:
    assert (folder(package) / "py.typed").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("project", "distribution", "names"), DISTRIBUTIONS)
def test_a_wheel_carries_its_packages_whole_and_nothing_else(
    pytestconfig: pytest.Config, tmp_path: Path, project: str, distribution: str, names: set[str]
) -> None:
    root = pytestconfig.rootpath / project
    expected = shipped_files(root, names)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    subprocess.run([*build, "--outdir", str(tmp_path), str(root)], cwd=tmp_path, check=True)

    (wheel,) = tmp_path.glob(f"{distribution}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())

    assert expected <= packed, f"left out: {sorted(expected - packed)}"
    tops = {PurePosixPath(name).parts[0] for name in packed}
    metadata = {top for top in tops if top.endswith(".dist-info")}
    assert tops - metadata == names
    assert len(metadata) == 1


def test_the_client_has_the_licence_of_the_server(pytestconfig: pytest.Config) -> None:
    root = pytestconfig.rootpath
    assert (root / "client" / "LICENSE").read_bytes() == (root / "LICENSE").read_bytes()


def test_server_and_client_have_one_version(pytestconfig: pytest.Config) -> None:
    project = tomllib.loads((pytestconfig.rootpath / "pyproject.toml").read_text())["project"]
    assert rheostat.__version__ == project["version"]


def closure(requirements: Iterable[str], extras: Iterable[str] = ("",)) -> set[str]:
    """Name every distribution that requirements bring along here."""
    found: set[tuple[str, str]] = set()

    def walk(text: str, extra: str) -> None:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            return
        for own in ("", *wanted.extras):
            key = (canonicalize_name(wanted.name), own)
            if key not in found:
                found.add(key)
                for further in distribution(wanted.name).requires or ():
                    walk(further, own)

    for text in requirements:
        for extra in extras:
            walk(text, extra)
    return {name for name, _ in found}


def links_to(names: Iterable[str], folder: Path) -> None:
    """Make a folder of links to what some installed distributions have at their top."""
    for name in names:
        for file in distribution(name).files or ():
            top = file.parts[0]
            link = folder / top
            if top not in ("..", "__pycache__") and not link.is_symlink():
                link.symlink_to(Path(str(distribution(name).locate_file(top))))


@pytest.mark.slow
def test_the_server_and_its_exporter_import_nothing_that_make_serve_does_not_install(
    pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    project = tomllib.loads((pytestconfig.rootpath / "pyproject.toml").read_text())["project"]
    names = closure([*project["dependencies"], *project["optional-dependencies"]["cpu"]])
    assert {"torch", "onnxruntime", "onnxscript"} <= names
    assert not {"pytest", "ray", "scipy", "transformers", "watchfiles", "grpcio"} & names
    site = tmp_path / "site"
    site.mkdir()
    links_to({*names, "rheostat"}, site)
    write_checkpoint(tmp_path / "models" / "tiny")
    write_text_checkpoint(tmp_path / "models" / "tiny-text")
    port = free_port()
    # -S: of the environment that the tests run in nothing but the links is seen, also by children.
    command = [sys.executable, "-S", "-m", "server", "serve", "--port", str(port)]
    options = {"models": tmp_path / "models", "profiles": tmp_path, "backend": "onnx"}
    options["database"] = f"sqlite:///{tmp_path}/clients.db"
    command += [part for key, value in options.items() for part in (f"--{key}", str(value))]
    with (
        unread(command, PYTHONPATH=str(site), PYTHONNOUSERSITE="1"),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as client,
    ):
        stats: dict[str, float] = {}
        give_up = time.monotonic() + DEADLINE_S
        while not stats or not (stats["builds"] or stats["slower"] or stats["refused"]):
            assert time.monotonic() < give_up, stats
            picture = client.post("/v1/infer", json={"image": text_of(image())})
            assert picture.status_code == 200, picture.text
            vector = client.post("/v1/embeddings", json={"input": "two words"})
            assert vector.status_code == 200, vector.text
            lines = client.get("/metrics").text.splitlines()
            of_backend = [line.split() for line in lines if line.startswith("rheostat_backend_")]
            stats = {
                name.removeprefix("rheostat_backend_").removesuffix("_total"): float(value)
                for name, value in of_backend
            }
            time.sleep(0.1)
        assert stats["refused"] == 0  # a chain that cannot be exported would be
