"""Export functions in a process of their own, so that requests go on meanwhile.

Tracing is seconds of Python. In a thread of the server it holds the interpreter for long stretches.
The runtime lets other threads run while it prepares a session, so that stays in the server.

The process starts with the first function and ends when it has had nothing to do for a while. It
gives way to others where the system has priorities.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import torch

from models.backends.onnx.export import Exported, export
from models.backends.onnx.sending import (
    Storages,
    dumps,
    loads,
    pack_function,
    receive_function,
    send_function,
)
from models.nn.ragged import Value
from models.run.chain import Run

_NICE = 10
_EXIT_S = 10.0  # for a process that is ending
_MAX_MESSAGE = 500  # characters of an error


class ExportProcess:
    """Exports as `models.backends.onnx.export.export` does, one function at a time.

    A function must be one that pickle can name or take apart, and the same for what it is bound to.
    """

    def __init__(
        self, *, timeout_s: float = 300.0, idle_s: float = 60.0, max_deaths: int = 3
    ) -> None:
        """Start nothing yet.

        Args:
            timeout_s: For one function; after it the process is killed.
            idle_s: Without a function; after it the process ends, until the next.
            max_deaths: Times that it may be killed, or die, before it is not started again.
        """
        self._timeout_s, self._idle_s, self._max_deaths = timeout_s, idle_s, max_deaths
        self._lock = threading.Lock()
        self._process: SpawnProcess | None = None
        self._connection: Connection[Any, Any] | None = None
        self._deaths = 0
        self._closed = False

    def export(self, run: Run, args: Sequence[Value]) -> Exported:
        """Trace a function; see `models.backends.onnx.export.export`.

        Raises:
            Exception: Of any type, if it cannot be sent or traced, or the process died of it.
        """
        with self._lock:
            # The first may find that the process has just ended for want of work.
            answer = self._ask(run, args) or self._ask(run, args)
        if answer is None:
            raise RuntimeError("the exporting process ends before it answers")
        graph = loads(*answer)
        if isinstance(graph, Exception):
            raise graph
        assert isinstance(graph, Exported)
        return graph

    def close(self) -> None:
        """End the process, and with it the export under way; there are no others."""
        self._closed = True
        if (process := self._process) is not None:
            process.kill()
        with self._lock:
            if self._process is not None:
                self._end(is_over=False)

    def _ask(self, run: Run, args: Sequence[Value]) -> tuple[bytes, Storages] | None:
        """Return the answer, or None if the process had ended in peace."""
        connection = self._connect()
        try:
            packed = pack_function(run, args)
            send_function(connection, packed)
            if not connection.poll(self._timeout_s):
                raise TimeoutError
            return connection.recv_bytes(), packed.storages
        except (EOFError, OSError) as error:
            if self._end(is_over=not isinstance(error, TimeoutError)) == 0:
                return None
            self._deaths += 1
            raise RuntimeError("the exporting process died, or took too long") from error

    def _connect(self) -> Connection[Any, Any]:
        if self._deaths >= self._max_deaths or self._closed:
            raise RuntimeError(f"no exporting process: closed, or died {self._deaths} times")
        if self._connection is None:
            context = multiprocessing.get_context("spawn")
            here, there = context.Pipe()
            process = context.Process(
                target=_serve, args=(there, self._idle_s), name="onnx-export", daemon=True
            )
            process.start()
            there.close()  # so that its death is the end of the pipe
            self._process, self._connection = process, here  # `close` may kill it from now on
        if self._closed:  # `close` says so first, then looks for a process to end
            raise RuntimeError("closed")
        return self._connection

    def _end(self, is_over: bool) -> int | None:
        """Return the process's exit code, 0 if it has ended by itself.

        Args:
            is_over: Whether it is ending already.
        """
        process, connection = self._process, self._connection
        self._process = self._connection = None
        assert process is not None
        assert connection is not None
        connection.close()
        if is_over:
            process.join(_EXIT_S)
        process.kill()
        process.join()
        return process.exitcode


def _serve(connection: Connection[Any, Any], idle_s: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends this
    if hasattr(os, "nice"):
        os.nice(_NICE)
    torch.set_num_threads(1)
    _use_no_semaphores()
    _read_operators_once()
    gc.disable()  # while one is traced it would look through all of torch again and again
    gc.freeze()
    with suppress(EOFError, OSError):  # the server has gone
        while connection.poll(idle_s):
            function, storages = receive_function(connection)
            try:
                answer = dumps(export(*function()), storages)
            except Exception as error:  # noqa: BLE001 - the exporter raises whatever it likes
                text = f"{type(error).__name__}: {error}"[:_MAX_MESSAGE]
                answer = dumps(RuntimeError(text), storages)
            connection.send_bytes(answer)
            del function, storages, answer
            gc.collect()
            gc.freeze()  # what is left is torch's, which the first one imports
    os._exit(0)  # at once: nothing is left to be written, and torch takes a second to end


def _use_no_semaphores() -> None:
    """Keep tqdm, which torch uses, from making one: it would be left behind by a kill."""
    with suppress(ImportError):
        from tqdm import tqdm

        tqdm.set_lock(threading.RLock())


def _read_operators_once() -> None:
    """Have the exporter read its table of operators once; in every call it takes two seconds."""
    with suppress(ImportError, AttributeError):  # not part of torch's interface
        from torch.onnx._internal.exporter import _registration

        registry = _registration.ONNXRegistry
        read = cache(registry.from_torchlib)
        registry.from_torchlib = staticmethod(read)  # type: ignore[method-assign]
