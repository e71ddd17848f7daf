"""Where the process begins: `rheostat`, and `python -m server`."""

from __future__ import annotations

import sys

from server import process
from server.processes import child


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["serve"]:
        child.prepare()
    with process.importing():
        from server.cli.main import cli
    process.tune()
    cli()


if __name__ == "__main__":
    main()
