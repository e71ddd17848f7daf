"""A server as a child process: started, waited for, watched, and always stopped."""

from __future__ import annotations

import http.client
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

HOST = "127.0.0.1"
PATH = "/v1/embeddings"
_START_S = 300
_STOP_S = 10
_REST_S = 0.1  # of CPU time in a second: as much as a server that is not asked may use


class ServerError(RuntimeError):
    """A server does not start or does not answer; the message is one line."""


@dataclass(frozen=True)
class Launch:
    """How to start a server.

    Attributes:
        command: Program and arguments; ``{port}`` stands for the port.
        environment: Variables beside ours; ``{port}`` as well.
        folder: To start in; default: an empty one.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        port: On the loopback interface.
        session: Id of the session that all of its processes are in.
    """

    port: int
    session: int

    def cpu_s(self) -> float:
        """Return the CPU time that the server's processes have used so far, in seconds.

        Read from /proc, which Linux has; elsewhere it is 0.
        """
        ticks = 0
        for process in processes_of(self.session):
            with suppress(OSError):  # it has ended meanwhile
                # After the name, which may hold anything: state, parent, group, session, ...
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def rest(self, longest_s: float = 120.0) -> None:
        """Return once the server, which nobody asks, has done what it builds beside requests.

        Args:
            longest_s: After which this returns in any case.
        """
        until = time.perf_counter() + longest_s
        used_s = -1.0
        while used_s < 0 or (used_s > _REST_S and time.perf_counter() < until):
            before_s = self.cpu_s()
            time.sleep(1.0)
            used_s = self.cpu_s() - before_s


def processes_of(session: int) -> Iterator[Path]:
    """Yield the folders in /proc of the processes of a session; none but on Linux."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if os.getsid(int(process.name)) == session:
                yield process


@contextmanager
def running(launch: Launch, num_threads: int, body: bytes) -> Iterator[Running]:
    """Start a server, wait until it has answered, and stop it in the end.

    Args:
        launch: What to start.
        num_threads: Of one forward pass.
        body: The request that it has to answer.

    Raises:
        ServerError: If it ends, or does not answer within minutes.
    """
    with tempfile.TemporaryDirectory() as scratch:
        port = free_port()
        log = Path(scratch) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [part.replace("{port}", str(port)) for part in launch.command],
                cwd=launch.folder or scratch,
                env=_environment(launch, port, num_threads),
                stdout=output,
                stderr=output,
                start_new_session=True,  # all of its processes can be counted, and stopped
            )
        try:
            _wait(process, port, body, log)
            yield Running(port, process.pid)
        finally:
            _stop(process)


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on.

    Of those that the system gives to no connection: it may be seconds until a server takes it, or
    takes it again.
    """
    while True:
        port = random.randrange(15_000, 30_000)
        with socket.socket() as listener, suppress(OSError):
            listener.bind((HOST, port))
            return port


def _environment(launch: Launch, port: int, num_threads: int) -> dict[str, str]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(num_threads))
    quiet = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    own = {name: value.replace("{port}", str(port)) for name, value in launch.environment.items()}
    return {**os.environ, **threads, **quiet, **own}


def _wait(process: subprocess.Popen[bytes], port: int, body: bytes, log: Path) -> None:
    """Return once the server has answered a real request."""
    give_up = time.monotonic() + _START_S
    said = "nothing"
    while time.monotonic() < give_up:
        if process.poll() is not None:
            raise ServerError(f"ended with code {process.returncode}: {_last_words(log)}")
        connection = http.client.HTTPConnection(HOST, port, timeout=_START_S)
        try:
            connection.request("POST", PATH, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            if answer.status == 200:
                return
            said = f"{answer.status} {content[:200]!r}"
        except (OSError, http.client.HTTPException):
            pass  # not listening yet
        finally:
            connection.close()
        time.sleep(0.2)
    raise ServerError(f"did not answer within {_START_S} s; it said {said}: {_last_words(log)}")


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    faults = [line for line in lines if "Error" in line and ":" in line]
    return (faults or [line for line in lines if line] or ["no output"])[-1][:300]


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the server and whatever it has started; politely first."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
    finally:  # also when interrupted a second time
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
