"""Judge what `coverage run` has measured: python -m tests.coverage_gate [--whole].

Lines and branches count. `pyproject.toml` says how much of all code tests must reach, and of which
files they must reach everything. With ``--whole`` only the latter is judged.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from coverage import Coverage

_RULES = "[tool.rheostat.coverage] in pyproject.toml"
_ROUNDING = 1e-9


def main(root: Path = Path(__file__).parents[1], whole_only: bool = False) -> int:
    """Return 0 if enough is covered; else say what is not, and return 1.

    Args:
        root: Of the project, where coverage was measured.
        whole_only: Whether only the files are judged of which everything must be reached.
    """
    project = root / "pyproject.toml"
    rules = tomllib.loads(project.read_text())["tool"]["rheostat"]["coverage"]
    # A pattern that means no file any more would let code go unwatched.
    lost = [pattern for pattern in rules["whole"] if not list(root.glob(pattern))]
    if lost:
        print(f"coverage: there is no {', '.join(lost)}; see {_RULES}")
        return 1
    measured = Coverage(data_file=root / ".coverage", config_file=project)
    measured.load()
    files = [str(root / pattern) for pattern in rules["whole"]]
    whole = measured.report(include=files, show_missing=True, skip_covered=True)
    print(f"coverage: {whole:.1f} % of the files of which 100 % are needed; see {_RULES}")
    is_enough = whole >= 100 - _ROUNDING
    if not whole_only:
        overall = measured.report(show_missing=False, skip_covered=True)
        print(f"coverage: {overall:.1f} % of all code, {rules['overall']} % needed")
        is_enough &= overall >= rules["overall"]
    return int(not is_enough)


if __name__ == "__main__":
    sys.exit(main(whole_only="--whole" in sys.argv[1:]))
