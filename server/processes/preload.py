"""What every child of a server needs, imported before it is born."""

from __future__ import annotations

from server import process

with process.importing():
    import server.app
    import server.engine.process.main
    import server.http.serving  # noqa: F401
