"""A PostgreSQL server for tests and benchmarks, in a folder of its own, on a free port."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers.process import free_port

_FOLDERS = "/usr/lib/postgresql"  # where Debian has it, by version; not on the path


class MissingError(RuntimeError):
    """PostgreSQL cannot be run here; the message is one line."""


class Cluster:
    """A server that runs until it is stopped; can be started again.

    Attributes:
        port: On the loopback interface.
    """

    def __init__(self, binaries: Path, folder: Path, user: str | None, port: int) -> None:
        """Create a server's files.

        Args:
            binaries: Folder of PostgreSQL's programs.
            folder: An empty one of the user's.
            user: Whom to run it as; None for whoever runs this.
            port: A free one.
        """
        self._binaries = binaries
        self._folder = folder
        self._user = user
        self.port = port
        self._run("initdb", "-A", "trust", "-U", "rheostat", "-E", "UTF8", "--no-sync")

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self._folder} -c fsync=off"
        log = str(self._folder / "log")
        self._run("pg_ctl", "start", "-w", "-l", log, "-o", options)

    def stop(self) -> None:
        """End it at once, its connections too."""
        self._run("pg_ctl", "stop", "-w", "-m", "immediate")

    def url(self, name: str) -> str:
        """Return where a database is."""
        return f"postgresql://rheostat@127.0.0.1:{self.port}/{name}"

    def create(self, name: str) -> str:
        """Create an empty database and return where it is."""
        command = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "rheostat", name)
        subprocess.run([self._binaries / "createdb", *command], check=True)
        return self.url(name)

    def _run(self, program: str, *arguments: str) -> None:
        data = str(self._folder / "data")
        subprocess.run(
            [self._binaries / program, "-D", data, *arguments],
            check=True,
            user=self._user,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Run a server until the end of the block.

    Raises:
        MissingError: If there is none on this machine.
    """
    user = _user()
    binaries = _binaries()
    # Not below pytest's folder, which only root may enter.
    folder = Path(tempfile.mkdtemp(prefix="rheostat-postgres-"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        running = Cluster(binaries, folder, user, free_port())
        running.start()
        try:
            yield running
        finally:
            running.stop()
    finally:
        shutil.rmtree(folder)


def _binaries() -> Path:
    if found := shutil.which("pg_ctl"):
        return Path(found).resolve().parent
    versions = sorted(Path(_FOLDERS).glob("*/bin/pg_ctl"), key=lambda path: float(path.parts[-3]))
    if not versions:
        raise MissingError("PostgreSQL's server is not installed")
    return versions[-1].parent


def _user() -> str | None:
    """Return whom to run it as; PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        raise MissingError(
            "PostgreSQL refuses to run as root, and there is no user postgres"
        ) from None
