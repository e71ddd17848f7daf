"""Starts the engine's process, and starts it again when it dies."""

from __future__ import annotations

import logging
import multiprocessing
import socket
import tempfile
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from server.settings import Settings, SettingsError

log = logging.getLogger(__name__)

_MODULE = "server.engine.process.main"
_START_S = 120.0
_END_S = 10.0
_LEAST_LIFE_S = 5.0  # of a process whose successor comes at once
_PAUSE_S = 1.0  # before the successor of one that lived shorter


def prepare() -> None:
    """Begin to import what the engine's process needs, beside this process.

    Engines are forks of a process that has imported all of it and does nothing else: a new one is
    there in a moment, also on busy cores. Call it first of all, from a process without threads.
    """
    from multiprocessing import forkserver

    multiprocessing.set_forkserver_preload([_MODULE])
    forkserver.ensure_running()


class EngineProcess:
    """The engine's process, whichever it is at the moment, while the block runs.

    Attributes:
        path: Of the Unix socket that it listens to. The socket outlives the process: connections
            made while there is none are taken by the next one.
    """

    def __init__(self, settings: Settings) -> None:
        """Start nothing yet."""
        self._settings = settings
        self._context = multiprocessing.get_context("forkserver")
        self._folder = tempfile.TemporaryDirectory(prefix="rheostat-")  # for this user only
        self.path = Path(self._folder.name) / "engine"
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._process: BaseProcess | None = None
        self._told: Any = None
        self._is_ending = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="engine-watch", daemon=True)

    def __enter__(self) -> Self:
        """Start it; `wait_until_ready` waits for it."""
        self._listening.bind(str(self.path))
        self._listening.listen()
        self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Have it finish what waits, and end."""
        self._is_ending.set()
        process = self._process
        assert process is not None
        process.terminate()
        process.join(_END_S)
        if process.is_alive():
            process.kill()
            process.join()
        if self._watcher.ident is not None:
            self._watcher.join()
        self._listening.close()
        self._folder.cleanup()

    @property
    def pid(self) -> int | None:
        """Of the process, for whoever wants to look at it."""
        return None if self._process is None else self._process.pid

    def wait_until_ready(self) -> None:
        """Return once connections are taken; from then on the process is started again if it dies.

        Raises:
            SettingsError: If the process says that it cannot run with these settings.
            RuntimeError: If it has died, or does not come up.
        """
        try:
            text = self._told.recv() if self._told.poll(_START_S) else "it does not come up"
        except EOFError:
            raise RuntimeError("the engine's process has died at its start") from None
        if text is not None:
            raise SettingsError(text)
        self._watcher.start()

    def _start(self) -> None:
        self._told, told = self._context.Pipe(duplex=False)
        # No daemon: it has a process of its own that exports graphs.
        self._process = self._context.Process(
            target=_run, args=(self._settings, self._listening, told), name="rheostat-engine"
        )
        self._process.start()
        told.close()

    def _watch(self) -> None:
        while True:
            process, began = self._process, time.monotonic()
            assert process is not None
            process.join()
            if self._is_ending.is_set():
                return
            log.error("the engine's process has ended with code %s", process.exitcode)
            if time.monotonic() - began < _LEAST_LIFE_S:
                self._is_ending.wait(_PAUSE_S)
            if self._is_ending.is_set():
                return
            self._start()


def _run(*args: Any) -> None:
    """Begin in the new process; here nothing of the engine is imported."""
    from server.engine.process.main import run

    run(*args)
