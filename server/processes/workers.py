"""Further processes that answer HTTP from the same sockets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from socket import socket
from typing import Any, Self

from server.processes.child import Child
from server.settings import Settings

_END_S = 5.0  # beyond what its requests may take


class HttpWorkers:
    """Runs all HTTP processes but the first, which is this one, while the block runs."""

    def __init__(self, settings: Settings, sockets: Sequence[socket], engine: Path) -> None:
        """Start nothing yet.

        Args:
            settings: Of the server.
            sockets: Bound to where to listen.
            engine: Socket of the engine's process.
        """
        self._grace_s = settings.drain_s + settings.grace_s + _END_S
        arguments = (settings, list(sockets), engine)
        self._children = [
            Child(f"HTTP process {number}", _run, lambda: arguments)
            for number in range(1, settings.num_http_workers)
        ]

    def __enter__(self) -> Self:
        """Start them; one that dies is started again."""
        for child in self._children:
            child.start()
            child.watch()
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until they have answered what is under way."""
        self.terminate()
        for child in self._children:
            child.stop(math.ceil(self._grace_s))

    def terminate(self) -> None:
        """Tell them to end as this one does."""
        for child in self._children:
            child.terminate()


def _run(settings: Settings, sockets: list[socket], engine: Path) -> None:
    """Answer in the new process; here nothing of the application is imported."""
    import torch

    from server import process
    from server.app import create_app
    from server.engine.process.remote import RemoteCore
    from server.http import serving
    from server.observe import logs
    from server.processes.child import end_with_parent

    process.tune()
    end_with_parent()
    torch.set_num_threads(1)  # models run elsewhere
    logs.configure(settings.log_format, settings.log_level)
    app: Any = create_app(settings, core=RemoteCore(engine, is_shared=True))
    serving.serve(app, settings, app.state.drain, sockets)
