"""A server to break, watched: what its good clients see, and what it holds."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import httpx

from bench.faults.witness import PHASES, Seen, witness
from bench.peers.process import HOST, Launch, Running, running
from bench.soak import resident_mb

_SAMPLE_S = 0.1
_TIMEOUT_S = 60.0


class AbsentError(RuntimeError):
    """A fault cannot be made on this machine; the message says why in one line."""


@dataclass
class Row:
    """What one fault did.

    Attributes:
        fault: Its name.
        faulty: What the side that is at fault, or the server about it, got or said.
        broken: Promises that were not kept, in words.
        seen: What the witness saw, by phase.
        before_mb: The server's resident memory before the fault.
        most_mb: And at most during it.
        is_alive: Whether the server answers in the end.
        figures: More of it, for programs.
    """

    fault: str
    faulty: str = ""
    broken: list[str] = field(default_factory=list)
    seen: Mapping[str, Seen] = field(default_factory=lambda: {phase: Seen() for phase in PHASES})
    before_mb: float = float("nan")
    most_mb: float = float("nan")
    is_alive: bool = False
    figures: dict[str, Any] = field(default_factory=dict)

    def expect(self, is_kept: bool, promise: str) -> None:
        """Note a promise that is not kept."""
        if not is_kept:
            self.broken.append(promise)

    @property
    def failures(self) -> list[str]:
        """Return everything that should not have been."""
        others = [
            f"witness, {phase}: {times} x {what}"
            for phase, seen in self.seen.items()
            for what, times in seen.others.items()
        ]
        return [*self.broken, *others, *([] if self.is_alive else ["the server died"])]

    @property
    def record(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "faulty": self.faulty,
            "figures": self.figures,
            "failures": self.failures,
            "witness": {phase: seen.record for phase, seen in self.seen.items()},
            "before_mb": self.before_mb,
            "most_mb": self.most_mb,
        }


@dataclass(frozen=True)
class Server:
    """A server that answers.

    Attributes:
        process: Its process.
        model: The name of what it serves.
        log: What it has written, a file.
        calm_s: How long the witness watches before a fault, and half as long after it.
    """

    process: Running
    model: str
    log: Path
    calm_s: float

    @property
    def port(self) -> int:
        """Where it listens, on the loopback interface."""
        return self.process.port

    @property
    def root(self) -> Path:
        """The root folder as the server sees it, with what is mounted for it alone."""
        return Path(f"/proc/{self.process.session}/root")

    def client(self, key: str | None = None) -> httpx.Client:
        """Return a client with a key."""
        headers = {"x-api-key": key} if key else {}
        return httpx.Client(
            base_url=f"http://{HOST}:{self.port}", headers=headers, timeout=_TIMEOUT_S
        )

    @contextmanager
    def watched(self, fault: str, key: str | None = None) -> Iterator[Row]:
        """Let the block break something, and watch before, during and after it.

        Args:
            fault: Its name.
            key: That the witness sends.
        """
        row = Row(fault)
        with witness(self.port, self.model, key) as good, _memory(self.process.session) as memory:
            time.sleep(self.calm_s)
            row.before_mb = memory[-1]
            memory.clear()
            good.begin("during")
            yield row
            row.most_mb = max(memory, default=row.before_mb)
            good.begin("after")
            time.sleep(self.calm_s / 2)
            good.end()
            row.seen = good.seen
        try:
            with self.client() as http:
                row.is_alive = http.get("/readyz").status_code == 200
        except httpx.TransportError:
            row.is_alive = False


@dataclass(frozen=True)
class Arena:
    """Where faults are made.

    Attributes:
        checkpoint: Of a text model.
        model: Its name.
        scratch: An empty folder.
        is_quick: Whether to take less time and fewer connections.
    """

    checkpoint: Path
    model: str
    scratch: Path
    is_quick: bool
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def read_timeout_s(self) -> float:
        """Of the shared server."""
        return 1.0 if self.is_quick else 5.0

    @cached_property
    def shared(self) -> Server:
        """A server for all faults that need none of their own."""
        limit = ("--read-timeout-s", str(self.read_timeout_s))
        return self._stack.enter_context(self.server(*limit, "--keep-alive-s", "600"))

    def folder(self) -> Path:
        """Return a new, empty folder."""
        return Path(tempfile.mkdtemp(dir=self.scratch))

    @contextmanager
    def server(
        self,
        *options: str,
        environment: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
        shell: str = "",
        log: Path | None = None,
    ) -> Iterator[Server]:
        """Run a server of its own, with a database of its own.

        Args:
            options: Of `rheostat serve`; they go before ours.
            environment: Variables.
            before: A command that runs another.
            shell: Commands that a shell runs in it before it becomes the server.
            log: Where to write the log; default: a new file.

        Raises:
            ServerError: If it does not start.
        """
        own = self.folder()
        log = log or own / "log"
        ours = {
            "--port": "{port}",
            "--num-threads": "1",
            "--backend": "torch",  # graphs built meanwhile would be taken for the fault's doing
            "--log-level": "warning",
            "--models": str(self.checkpoint),
            "--profiles": str(self.scratch / "profiles"),  # measured once for all
            "--database": f"sqlite:///{own}/clients.db",
        }
        command = [sys.executable, "-m", "server", "serve"]
        command += [word for option in ours.items() for word in option]
        script = f'{shell}\nexec "$@" 2>>{log}'
        command = [*before, "sh", "-ec", script, "sh", *command, *options]
        launch = Launch(tuple(command), environment or {})
        first = f'{{"model": "{self.model}", "input": "a"}}'.encode()
        with running(launch, 1, first) as process:
            yield Server(process, self.model, log, 0.25 if self.is_quick else 5.0)


@contextmanager
def _memory(session: int) -> Iterator[list[float]]:
    """Yield a list to which a thread adds the megabytes of a session's processes."""
    samples = [resident_mb(session)]
    is_over = threading.Event()

    def sample() -> None:
        while not is_over.wait(_SAMPLE_S):
            samples.append(resident_mb(session))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        is_over.set()
        thread.join()
