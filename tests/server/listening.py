"""Servers that listen, in a thread of this process or in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from starlette.types import ASGIApp

from bench.peers.process import free_port as free_port  # what starts servers needs one

ROOT = Path(__file__).parents[2]
DEADLINE_S = 90
_LONG_S = 600  # for the tests of a module together


@contextmanager
def listening(app: ASGIApp, config: uvicorn.Config | None = None) -> Iterator[str]:
    """Serve an app, by default with uvicorn's own settings; yield host and port."""
    config = config or uvicorn.Config(app, port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
        (listener,) = server.servers[0].sockets
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def running(
    command: list[str], deadline_s: float = DEADLINE_S, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """Start a process; yield once it listens; kill it if it outlives the deadline."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "RHEOSTAT_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = threading.Timer(deadline_s, process.kill)
    deadline.start()
    try:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if "Uvicorn running on" in line:
                break
        else:
            pytest.fail("".join(seen))
        yield process
    finally:
        process.kill()
        process.wait()
        deadline.cancel()
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def server(folder: Path, port: int, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Start the server as a process; as `running`."""
    serve = ["serve", "--models", str(folder), "--port", str(port), *options]
    with running([sys.executable, "-m", "server", *serve]) as process:
        yield process


@contextmanager
def unread(command: list[str], **environment: str) -> Iterator[None]:
    """Start a process of which only the port matters; yield once it listens."""
    with running(command, _LONG_S, **environment) as process:
        assert process.stdout is not None
        reader = threading.Thread(target=process.stdout.read)  # or the pipe would fill
        reader.start()
        try:
            yield
        finally:
            process.kill()
            reader.join()
