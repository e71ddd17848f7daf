from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import coverage_gate

PROJECT = """
[tool.coverage.run]
branch = true
source = ["{root}"]

[tool.rheostat.coverage]
overall = {overall}
whole = ["core/*.py"]
"""
CORE = """
def half(number):
    if number % 2:
        number += 1
    return number // 2
"""
REST = """
import core.half
for number in {numbers}:
    core.half.half(number)
if "x" in {numbers}:
    print("no number")
    print("at all")
"""


def judged(root: Path, numbers: list[int], overall: int) -> subprocess.CompletedProcess[str]:
    """Measure a project whose core is reached wholly only with odd and even numbers; judge it."""
    (root / "core").mkdir()
    (root / "core" / "half.py").write_text(CORE)
    (root / "rest.py").write_text(REST.format(numbers=numbers))
    (root / "pyproject.toml").write_text(PROJECT.format(root=root, overall=overall))
    measure = [sys.executable, "-m", "coverage", "run", "rest.py"]
    subprocess.run(measure, cwd=root, check=True)
    judge = f"import sys, pathlib; from {coverage_gate.__name__} import main; "
    judge += "sys.exit(main(pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-c", judge, str(root)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("numbers", "overall", "code"), [([1, 2], 60, 0), ([1, 2], 90, 1), ([1], 60, 1), ([2], 60, 1)]
)
def test_all_code_and_what_must_be_covered_whole_are_judged_by_branch(
    numbers: list[int], overall: int, code: int, tmp_path: Path
) -> None:
    ended = judged(tmp_path, numbers, overall)
    assert ended.returncode == code, ended.stdout + ended.stderr
    if len(numbers) == 1:
        assert {1: "3->5", 2: "4"}[numbers[0]] in ended.stdout


@pytest.mark.parametrize(("numbers", "code"), [([1, 2], 0), ([1], 1)])
def test_what_must_be_covered_whole_can_be_judged_alone(
    numbers: list[int], code: int, tmp_path: Path
) -> None:
    judged(tmp_path, numbers, 90)
    assert coverage_gate.main(tmp_path, whole_only=True) == code


def test_a_pattern_that_means_no_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pyproject.toml").write_text(PROJECT.format(root=tmp_path, overall=90))
    assert coverage_gate.main(tmp_path) == 1
    assert "there is no core/*.py" in capsys.readouterr().out
