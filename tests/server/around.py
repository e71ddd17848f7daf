"""A service around one model, in this event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from models.backends.torch import TorchBackend
from server.audit.audit import Audit
from server.catalog import Catalog
from server.engine.engine import Engine
from server.engine.load import LoadPolicy
from server.engine.local import LocalCore
from server.inputs.decoder import Decoder
from server.observe.metrics import Metrics
from server.served import Served
from server.service import Service


@asynccontextmanager
async def service_around(
    served: Served,
    decoder: Decoder,
    backend: TorchBackend,
    max_batch_size: int,
    max_queue: int,
    policy: LoadPolicy | None = None,
    clock: Callable[[], float] | None = None,
    engine_clock: Callable[[], float] | None = None,
    audit: Audit | None = None,
) -> AsyncIterator[tuple[Service, Engine]]:
    """Run an engine for a service until the end of the block; clocks are the loop's by default."""
    clock = clock or asyncio.get_running_loop().time
    own_clock = engine_clock or clock
    engine = Engine(LocalCore(backend, max_batch_size, 4096, own_clock), max_queue, own_clock)
    metrics = Metrics([served.name], 8)
    metrics.watch(lambda: engine.depth, lambda: engine.backlog_s, lambda: 0.0)
    metrics.watch_model(served)
    service = Service(Catalog([served]), engine, decoder, metrics, clock, policy, audit=audit)
    await engine.start()
    try:
        yield service, engine
    finally:
        await engine.close()


async def until(is_true: Callable[[], bool]) -> None:
    """Let everything else go on until something is true."""
    while not is_true():
        await asyncio.sleep(0)
