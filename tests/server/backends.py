"""Back ends that run real models, but not always."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

from models.backends.torch import TorchBackend
from models.nn.ragged import Value
from models.run.chain import Chain
from models.run.execution import never

WAIT_S = 20


class _Watched(TorchBackend):
    """Calls `before` ahead of each run."""

    def before(self) -> None:
        raise NotImplementedError

    def run_chain(
        self, chain: Chain, inputs: Sequence[Value], stop: Callable[[], bool] = never
    ) -> Value:
        self.before()
        return super().run_chain(chain, inputs, stop)


class HeldBackend(_Watched):
    """Runs as usual; once told to hold, each run waits until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self._is_holding = False
        self._entered, self._may_go = threading.Event(), threading.Event()

    def before(self) -> None:
        if self._is_holding:
            self._entered.set()
            assert self._may_go.wait(WAIT_S), "held for too long"

    def hold(self) -> None:
        self._is_holding = True

    def release(self) -> None:
        self._is_holding = False
        self._may_go.set()

    async def until_held(self) -> None:
        assert await asyncio.to_thread(self._entered.wait, WAIT_S), "never called"


class FailingBackend(_Watched):
    """Runs as usual; once given an error, ends each run in it."""

    error: BaseException | None = None

    def before(self) -> None:
        if self.error:
            raise self.error
