"""The engine's process: where it begins, and how it ends."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection as Pipe
from socket import socket
from types import FrameType
from typing import Any

from server.backends import make_backend
from server.engine.cache import ContentCache
from server.engine.process.host import Host
from server.engine.process.http_process import HttpProcess
from server.observe import logs
from server.observe.progress import ProgressDisplay
from server.process import tune
from server.processes.child import end_with_parent
from server.profiles import Profiles
from server.settings import Settings, SettingsError

log = logging.getLogger("server.engine")


def run(settings: Settings, listening: socket, told: Pipe[Any, Any]) -> None:
    """Run what HTTP processes ask for, until a signal says to end or the server has gone.

    Args:
        settings: Of the server.
        listening: Where HTTP processes connect; it stays when this process ends.
        told: Told None once connections are taken, or why they cannot be.
    """
    tune()
    logs.configure(settings.log_format, settings.log_level)
    try:
        host = host_of(settings, _die)
    except SettingsError as error:
        told.send(str(error))
        return
    host.worker.start()
    # Ctrl-C is for the HTTP processes: when they have answered, this one is told to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, partial(_finish, host))
    end_with_parent()
    told.send(None)
    told.close()
    accept(host, listening)


def accept(host: Host, listening: socket) -> None:
    """Take connections until the socket is closed."""
    with suppress(OSError):
        while True:
            endpoint, _ = listening.accept()
            process = HttpProcess(host, endpoint)
            threading.Thread(target=process.run, name="engine-read", daemon=True).start()


def host_of(settings: Settings, on_end: Callable[[], None]) -> Host:
    """Return a host that is not yet started.

    Args:
        settings: Of the server.
        on_end: Called once nothing is run any more.

    Raises:
        SettingsError: If the device or the runtime is not there.
    """
    backend = make_backend(settings)
    profiles = Profiles(settings.profiles_folder, backend, time.perf_counter)
    is_seen = settings.log_format == "console"
    progress = ProgressDisplay.on_terminal() if is_seen else ProgressDisplay()
    return Host(
        backend,
        settings.max_batch_size,
        settings.max_batch_tokens,
        time.perf_counter,
        settings.max_wait_ms / 1000,
        ContentCache(settings.max_cache_bytes),
        measure=partial(profiles.get, progress=progress),
        max_text_chars=settings.max_text_chars,
        on_end=on_end,
    )


def _finish(host: Host, *_: int | FrameType | None) -> None:
    """Run what waits, then end."""
    threading.Thread(target=_closed, args=(host,), name="close").start()


def _closed(host: Host) -> None:
    host.worker.close()
    host.worker.join()
    with suppress(Exception):
        host.backend.close()
    _die()


def _die() -> None:
    # At once: nothing is left to be written, and torch takes a second to end.
    os._exit(0)
