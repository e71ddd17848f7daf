"""A process that is started again when it dies."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from typing import Any

log = logging.getLogger(__name__)

_MODULES = ["server.processes.preload"]
_LEAST_LIFE_S = 5.0  # of a process whose successor comes at once
_PAUSE_S = 1.0  # before the successor of one that lived shorter


def prepare() -> None:
    """Begin to import what children need, beside this process.

    Children are forks of a process that has imported all of it and does nothing else: a new one is
    there in a moment, also on busy cores.
    """
    multiprocessing.set_forkserver_preload(_MODULES)
    forkserver.ensure_running()


def end_with_parent() -> None:
    """End this process when its parent has gone: nobody else would end it."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        wait([parent.sentinel])
        log.warning("the server has gone, and this process with it")
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


class Child:
    """One process, and its successors."""

    def __init__(
        self, name: str, target: Callable[..., None], arguments: Callable[[], Sequence[Any]]
    ) -> None:
        """Start nothing yet.

        Args:
            name: For logs.
            target: What it does; a function that pickle can name.
            arguments: Returns those of the target, for each process anew.
        """
        self._name, self._target, self._arguments = name, target, arguments
        self._context = multiprocessing.get_context("forkserver")
        self._process: ForkServerProcess | None = None
        self._is_ending = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name=f"{name}-watch", daemon=True)

    @property
    def pid(self) -> int | None:
        """Of the process at the moment."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it. It has no successors yet."""
        # No daemon: those may not have processes of their own.
        self._process = self._context.Process(
            target=self._target, args=tuple(self._arguments()), name=self._name
        )
        self._process.start()

    def watch(self) -> None:
        """From now on start it again when it dies."""
        self._watcher.start()

    def terminate(self) -> None:
        """Tell it to end; it has no successor."""
        self._is_ending.set()
        if self._process is not None:
            self._process.terminate()

    def stop(self, grace_s: float) -> None:
        """Return once it has ended, by force after a while."""
        self.terminate()
        if self._process is None:
            return
        self._process.join(grace_s)
        if self._process.is_alive():
            log.warning("%s did not end in %g s and is killed", self._name, grace_s)
            self._process.kill()
            self._process.join()
        if self._watcher.ident is not None:
            self._watcher.join()

    def _watch(self) -> None:
        while True:
            process, began = self._process, time.monotonic()
            assert process is not None
            process.join()
            if not self._is_ending.is_set():
                log.error("%s has ended with code %s", self._name, process.exitcode)
                if time.monotonic() - began < _LEAST_LIFE_S:
                    self._is_ending.wait(_PAUSE_S)
            if self._is_ending.is_set():
                return
            self.start()
