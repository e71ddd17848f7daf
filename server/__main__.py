"""Where the process begins: `rheostat`, and `python -m server`."""

from __future__ import annotations

import sys

from server import process
from server.cli.asking import is_asking, light


def main() -> None:
    """Run the command line."""
    if is_asking(sys.argv[1:]):  # of a server, for instance, which takes no tensor library
        light(prog_name="rheostat")
    with process.importing():
        from server.cli.main import cli
    process.tune()
    cli()


if __name__ == "__main__":
    main()
