"""Where the process begins: `rheostat`, and `python -m server`."""

from __future__ import annotations

from server import process


def main() -> None:
    """Run the command line."""
    with process.importing():
        from server.cli.main import cli
    process.tune()
    cli()


if __name__ == "__main__":
    main()
