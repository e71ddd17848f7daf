"""The engine's process, whichever it is at the moment."""

from __future__ import annotations

import multiprocessing
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from server.processes.child import Child
from server.settings import Settings, SettingsError

_START_S = 120.0
_END_S = 10.0


class EngineProcess:
    """Runs the engine's process while the block runs.

    Attributes:
        path: Of the Unix socket that it listens to. The socket outlives the process: connections
            made while there is none are taken by the next one.
    """

    def __init__(self, settings: Settings) -> None:
        """Start nothing yet."""
        self._settings = settings
        self._folder = tempfile.TemporaryDirectory(prefix="rheostat-")  # for this user only
        self.path = Path(self._folder.name) / "engine"
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._told: Any = None
        self._child = Child("the engine's process", _run, self._arguments)

    def __enter__(self) -> Self:
        """Start it; `wait_until_ready` waits for it."""
        self._listening.bind(str(self.path))
        self._listening.listen()
        self._child.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Have it finish what waits, and end."""
        self._child.stop(_END_S)
        self._listening.close()
        self._folder.cleanup()

    @property
    def pid(self) -> int | None:
        """Of the process at the moment."""
        return self._child.pid

    def wait_until_ready(self) -> None:
        """Return once connections are taken; from then on the process is started again if it dies.

        Raises:
            SettingsError: If the process says that it cannot run with these settings.
            RuntimeError: If it has died, or does not come up.
        """
        here, there = self._told
        there.close()  # so that the process's death is the end of the pipe
        try:
            text = here.recv() if here.poll(_START_S) else "the engine's process does not come up"
        except EOFError:
            raise RuntimeError("the engine's process has died at its start") from None
        if text is not None:
            raise SettingsError(text)
        self._child.watch()

    def _arguments(self) -> Sequence[Any]:
        self._told = multiprocessing.Pipe(duplex=False)
        return self._settings, self._listening, self._told[1]


def _run(*args: Any) -> None:
    """Begin in the new process; here nothing of the engine is imported."""
    from server.engine.process.main import run

    run(*args)
