"""The package names are generic: prove that they are ours, and that the wheel is complete."""

import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath
from types import ModuleType

import pytest

import models
import search
import server

PACKAGES = (models, search, server)
NAMES = {package.__name__ for package in PACKAGES}


def folder(package: ModuleType) -> Path:
    return Path(package.__path__[0]).resolve()


def shipped_files(root: Path) -> set[str]:
    """Name every file below the three packages, bytecode and hidden files aside."""
    paths = (path for name in NAMES for path in (root / name).rglob("*") if path.is_file())
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
    strangers = {name: set(owners.get(name, [])) - {"rheostat"} for name in NAMES}
    assert not any(strangers.values()), strangers


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_package_is_marked_as_typed(package: ModuleType) -> None:
    assert (folder(package) / "py.typed").is_file()


@pytest.mark.slow
def test_the_wheel_carries_the_packages_whole_and_nothing_else(
    pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    root = pytestconfig.rootpath
    expected = shipped_files(root)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    subprocess.run([*build, "--outdir", str(tmp_path), str(root)], cwd=tmp_path, check=True)

    (wheel,) = tmp_path.glob("rheostat-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())

    assert expected <= packed, f"left out: {sorted(expected - packed)}"
    tops = {PurePosixPath(name).parts[0] for name in packed}
    metadata = {top for top in tops if top.endswith(".dist-info")}
    assert tops - metadata == NAMES
    assert len(metadata) == 1
