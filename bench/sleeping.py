"""A replica whose batches take as long as is said, whatever the machine does.

Two cores cannot show that two replicas do twice as much as one if both compute. This back end
computes as well, on a model that is small enough not to matter, and sleeps before each batch: the
rest of the server, batching and routing are as they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from unittest.mock import patch

from fastapi import FastAPI
from pydantic import Field

from deploy.ray_app import Model
from deploy.ray_settings import RaySettings
from models.backends.torch import TorchBackend
from models.nn.ragged import Value
from models.run.backend import Backend
from models.run.chain import Chain
from models.run.execution import never
from server import app as server_app


class SleepingSettings(RaySettings):
    """The server's settings, and what a batch takes."""

    alone_s: float = Field(default=0.04, ge=0, description="Of every batch.")
    more_s: float = Field(default=0.01, ge=0, description="Of every row.")


class SleepingBackend(TorchBackend):
    """Takes a time for a batch and a time for each row of it."""

    def __init__(self, alone_s: float, more_s: float) -> None:
        """Set the times.

        Args:
            alone_s: Of every batch, seconds.
            more_s: Of every row, seconds.
        """
        super().__init__()
        self._alone_s, self._more_s = alone_s, more_s

    @property
    def baseline(self) -> Backend:
        """What computes: profiles are not measured asleep."""
        return TorchBackend()

    def run_chain(
        self, chain: Chain, inputs: Sequence[Value], stop: Callable[[], bool] = never
    ) -> Value:
        """Sleep if the chain begins at the inputs of a batch, then run it."""
        if not chain.steps[0].operands:
            time.sleep(self._alone_s + self._more_s * len(inputs[0]))
        return super().run_chain(chain, inputs, stop)


class Sleeping(Model):
    """A replica with that back end."""

    def make_app(self, settings: RaySettings) -> FastAPI:
        """Return the server's application around it."""
        assert isinstance(settings, SleepingSettings)
        backend = SleepingBackend(settings.alone_s, settings.more_s)
        with patch.object(server_app, "make_backend", lambda _: backend):
            return server_app.create_app(settings)
