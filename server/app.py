"""The application: wiring only."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from server import catalog, errors
from server.api import cohere, health, infer, models, openai, rerank, tei
from server.backends import make_backend
from server.decode import Decoder
from server.engine import load
from server.engine.cache import ContentCache
from server.engine.engine import Engine
from server.metrics import Metrics
from server.middleware import BodyLimit, RequestId
from server.profiles import Profiles
from server.service import Service
from server.settings import Settings

_MAX_DECODE_THREADS = 4


def create_app(settings: Settings) -> FastAPI:
    """Load the models and wire the server around them; its lifespan runs the engine.

    Raises:
        CatalogError: If the models cannot be served.
        SettingsError: If the device is not there.
    """
    backend = make_backend(settings)
    loaded = catalog.load(settings.models_folder)
    for one in loaded.values():
        backend.prepare(one.model)
    served = loaded.profiled(Profiles(settings.profiles_folder, backend, time.perf_counter).get)
    metrics = Metrics(served, settings.max_batch_size)
    cache = ContentCache(settings.max_cache_bytes)
    engine = Engine(
        backend,
        settings.max_batch_size,
        settings.max_batch_tokens,
        settings.max_queue,
        time.perf_counter,
        metrics.batch,
        settings.max_wait_ms / 1000,
        cache,
    )
    metrics.watch_stats("cache", lambda: cache.stats, ("entries", "bytes"))
    if backend.stats is not None:
        metrics.watch_stats("backend", lambda: backend.stats, backend.levels)
    policy = load.policy(settings.policy, settings.target_delay_ms / 1000)
    metrics.watch(lambda: engine.depth, lambda: engine.backlog_s, lambda: policy.price)
    decoder = Decoder(min(_MAX_DECODE_THREADS, os.cpu_count() or 1))
    service = Service(served, engine, decoder, metrics, time.perf_counter, policy)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        try:
            await service.warm_up()
            yield
        finally:
            await engine.close()
            backend.close()
            decoder.close()

    app = FastAPI(
        title="Rheostat",
        summary="A runtime-adaptive inference server with budget-aware model slicing.",
        version=version("rheostat"),
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.models = tuple(served)
    app.include_router(infer.routes(service, settings.max_images))
    app.include_router(openai.routes(service, settings.max_texts))
    app.include_router(rerank.routes(service, settings.max_texts))
    app.include_router(tei.routes(service, settings))
    app.include_router(models.routes(served))
    app.include_router(health.routes(service))
    forms = errors.Forms(openai.FORMS | tei.FORMS | cohere.FORMS)
    errors.install(app, forms)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(RequestId, forms=forms)
    return app
