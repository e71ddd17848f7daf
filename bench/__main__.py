"""`python -m bench`: run every benchmark, one after the other; arguments are passed on.

With --quick and no --json, tables go to `docs/results/NAME.md` and `.csv`, and from there into the
pages that have a place for them (`bench.insert`); charts are drawn anew.
`--only NAME,NAME` runs those alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from bench import charts
from bench.insert import RESULTS, insert_all

BENCHMARKS = (
    "bench.budgets",
    "bench.search",
    "bench.offline_search",
    "bench.ecmt",
    "bench.training",
    "bench.ladder",
    "bench.text",
    "bench.ranking",
    "bench.packing",
    "bench.quality",
    "bench.pairs",
    "bench.text_uses",
    "bench.limit",
    "bench.http",
    "bench.long_texts",
    "bench.warming",
    "bench.overload",
    "bench.sharing",
    "bench.trace",
    "bench.peers",
)


def main() -> None:
    """Run them all, each in its own process; the exit code is that of the first that fails."""
    options = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    options.add_argument("--only", help="names of benchmarks, such as search,ecmt")
    given, passed = options.parse_known_args()
    names: tuple[str, ...] = BENCHMARKS
    if given.only is not None:
        names = tuple(f"bench.{name}" for name in given.only.split(","))
    is_kept = "--quick" in passed and "--json" not in passed
    for name in names:
        print(f"\n== {name}", flush=True)
        file = RESULTS / f"{name.removeprefix('bench.')}.json"
        arguments = [*passed, *(["--json", str(file)] if is_kept else [])]
        code = subprocess.run([sys.executable, "-m", name, *arguments], check=False).returncode
        if code:
            sys.exit(code)
    if is_kept:
        insert_all()
        charts.main()


if __name__ == "__main__":
    main()
