"""An application whose engine is behind a socket, as in a process of its own, but in a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi import FastAPI

from server.app import create_app
from server.engine.process.host import Host
from server.engine.process.main import accept, host_of
from server.engine.process.remote import RemoteCore
from server.settings import Settings


class HostThread:
    """A socket, and a host behind it that can be replaced by another.

    Attributes:
        path: Of the socket.
        host: The present one.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self.path = folder / "engine"
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(self.path))
        self._listening.listen()
        self.host: Host = self._begun()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def replace(self) -> None:
        """End the host as a kill would for whoever is connected, and begin another."""
        old, self.host = self.host, self._begun()
        old.worker.close()
        old.worker.join()

    def close(self) -> None:
        """End it all."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listening.close()
        self.host.worker.close()
        self.host.worker.join()

    def _begun(self) -> Host:
        host = host_of(self._settings, lambda: None)
        host.worker.start()
        return host

    def _accept(self) -> None:
        accept(_Present(self), self._listening)  # type: ignore[arg-type]


class _Present:
    """Whatever the host is when a connection comes."""

    def __init__(self, hosting: HostThread) -> None:
        self._hosting = hosting

    def __getattr__(self, name: str) -> object:
        return getattr(self._hosting.host, name)


@contextmanager
def hosting(settings: Settings, folder: Path) -> Iterator[HostThread]:
    """Run a host."""
    found = HostThread(settings, folder)
    try:
        yield found
    finally:
        found.close()


def split_app(settings: Settings, engine: HostThread, is_shared: bool = False) -> FastAPI:
    """Return an application in front of a host."""
    return create_app(settings, core=RemoteCore(engine.path, is_shared))
