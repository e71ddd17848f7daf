"""`python -m bench`: run every benchmark, one after the other; arguments are passed on."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = (
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
    for name in BENCHMARKS:
        print(f"\n== {name}", flush=True)
        code = subprocess.run([sys.executable, "-m", name, *sys.argv[1:]], check=False).returncode
        if code:
            sys.exit(code)


if __name__ == "__main__":
    main()
