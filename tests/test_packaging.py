"""The package names are generic: prove that they are ours, and that the wheels are complete."""

import importlib.metadata
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path, PurePosixPath
from types import ModuleType

import pytest

import models
import rheostat
import search
import server

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
