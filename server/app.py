"""The application: wiring only."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import (
    AsyncExitStack,
    asynccontextmanager,
)
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from fastapi.telemetry import TelemetryConfig
from starlette.middleware.cors import CORSMiddleware

from server import catalog
from server.api import cohere, health, reference
from server.api.compression import Decompression
from server.api.kserve import rest as kserve
from server.api.kserve.inference import Inference
from server.api.openai import routes as openai
from server.api.options import ReadOptions
from server.api.rheostat import classify, indexes, infer, lifecycle, models, rerank
from server.api.rheostat import clients as client_routes
from server.api.rheostat import keys as key_routes
from server.api.tei import predict as tei_predict
from server.api.tei import routes as tei
from server.api.tei import tokens as tei_tokens
from server.audit.audit import Audit
from server.audit.rerun import Rerun
from server.backends import make_backend
from server.clients.clients import Clients
from server.engine import load
from server.engine.cache import ContentCache
from server.engine.core import Core
from server.engine.engine import Engine
from server.engine.local import LocalCore
from server.grpc_listening import grpc_server
from server.http.auth import Access, Authenticator
from server.http.cors import cors
from server.http.direct import Direct
from server.http.forms import Forms
from server.http.forms import install as install_forms
from server.http.middleware import BodyLimit, BodyTimeout, RequestId, Shedding
from server.http.openapi import DocumentedApp
from server.http.paths import HeadMethod, Methods, Prefix
from server.http.routed import route_path
from server.http.scopes import SCOPES
from server.indexes.store import Indexes
from server.inputs.decoder import Decoder
from server.lifecycle import Lifecycle
from server.observe.audits import AuditMetrics
from server.observe.logs import PROBES
from server.observe.merged import AllMetrics
from server.observe.metrics import Metrics
from server.observe.progress import ProgressDisplay
from server.observe.watchdog import Watchdog
from server.profiles import Profiles
from server.service import Service
from server.settings import Settings, SettingsError
from server.ui import page

if TYPE_CHECKING:
    from server.observe.tracing import Tracing

FORMS = openai.FORMS | tei.FORMS | cohere.FORMS | kserve.FORMS
_IN_LOG = ProgressDisplay()
_MAX_DECODE_THREADS = 4
_TURNS = 100  # of the event loop, at most, from a request to its answer


def create_app(
    settings: Settings, progress: ProgressDisplay = _IN_LOG, core: Core | None = None
) -> FastAPI:
    """Load the models and wire the server around them; its lifespan runs the engine.

    Args:
        settings: Of the server.
        progress: Tells how far the measuring of models is.
        core: Runs the models; None for a worker in this process.

    Raises:
        CatalogError: If the models cannot be served.
        SettingsError: If the device is not there.
    """
    _check_prefix(settings.root_path)
    served = catalog.load(
        settings.models_folder,
        settings.defaults,
        settings.max_text_chars,
        settings.names,
        with_weights=core is None,
    )
    if core is None:
        core, served = _local(settings, served, progress)
    metrics = Metrics(served, settings.max_batch_size)
    engine = Engine(
        core, settings.max_queue, time.perf_counter, metrics.batch, settings.max_wait_ms / 1000
    )
    metrics.watch_process()
    watchdog = Watchdog(settings.max_wait_ms / 1000 / _TURNS, time.perf_counter)
    metrics.watch_stats("loop", lambda: watchdog.stats, ("late_seconds",))
    policy = load.policy(settings.policy, settings.target_delay_ms / 1000)
    metrics.watch(lambda: engine.depth, lambda: engine.backlog_s, lambda: policy.price)
    num_decoding = min(_MAX_DECODE_THREADS, os.cpu_count() or 1)
    decoder = Decoder(num_decoding, time.perf_counter, settings.max_pixels)
    clients = Clients.of(settings, metrics.clients)
    authenticator = Authenticator(clients.directory, metrics.clients, settings)
    tracing = make_tracing(settings)
    service = Service(
        served,
        engine,
        decoder,
        metrics,
        time.perf_counter,
        policy,
        clients.quotas,
        tracing,
        late_s=lambda: watchdog.late_s,
        slims_all=settings.slim_all,
        max_variant_bytes=settings.max_variant_bytes,
        audit=Audit.of(settings, served),
        indexes=Indexes.of(settings),
    )
    rerun = Rerun(service.audit, engine, service.variants, service.uses, time.perf_counter)
    metrics.add(AuditMetrics(served, service.audit))
    metrics.watch_stats("variants", lambda: service.variants.stats, ("resident", "bytes"))

    inference = Inference(service, settings.max_images, settings.max_texts)
    grpc = grpc_server(settings, inference, authenticator, tracing)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if tracing is not None:
                stack.callback(tracing.close)
            stack.callback(decoder.close)
            await stack.enter_async_context(clients.running())
            authenticator.open()
            stack.push_async_callback(engine.close)
            await engine.start()
            _tell(metrics, core, settings)
            stack.callback(asyncio.create_task(watchdog.beat()).cancel)
            await service.warm_up()
            await stack.enter_async_context(rerun.running())
            await stack.enter_async_context(grpc)
            yield

    app = DocumentedApp(
        title="Rheostat",
        summary="A runtime-adaptive inference server with budget-aware model slicing.",
        version=version("rheostat"),
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # these load their scripts from elsewhere
        redoc_url=None,
        telemetry=_telemetry(tracing),
    )
    app.state.models, app.state.drain = tuple(served), service.drain
    app.state.core, app.state.engine, app.state.service = core, engine, service
    changes = Lifecycle(service, engine, settings.models_folder, settings.max_text_chars)
    routers = (
        infer.routes(service, settings.max_images, settings.max_texts),
        openai.routes(service, settings.max_texts),
        rerank.routes(service, settings.max_texts),
        indexes.routes(service),
        classify.routes(service, settings.max_texts, settings.max_label_bytes),
        tei.routes(service, settings),
        tei_tokens.routes(service, settings),
        tei_predict.routes(service, settings.max_texts),
        kserve.routes(inference),
        models.routes(service),
        lifecycle.routes(changes),
        client_routes.routes(clients, served),
        key_routes.routes(clients),
        health.routes(service, AllMetrics(metrics, core)),
        reference.routes(app.title),
        *([page.routes()] if settings.ui else []),
    )
    for router in routers:
        app.include_router(router)
    forms = Forms(FORMS)
    install_forms(app, forms)
    if tracing is None:  # the framework's spans are named by its routes
        app.add_middleware(Direct, routes=[route for one in routers for route in one.routes])
    app.add_middleware(ReadOptions)
    app.add_middleware(Decompression, max_bytes=settings.max_body_bytes)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(BodyTimeout, limit_s=settings.read_timeout_s)
    app.add_middleware(Methods, methods=_methods(app))
    app.add_middleware(Access, authenticator=authenticator)
    if settings.ui:
        app.add_middleware(page.ToPage)
    app.add_middleware(HeadMethod)
    app.add_middleware(Shedding, watchdog=watchdog)
    app.add_middleware(RequestId, forms=forms, on_fault=metrics.malformed)
    if settings.root_path:
        app.add_middleware(Prefix, root_path=settings.root_path)
    if settings.origins:
        app.add_middleware(CORSMiddleware, **cors(settings.origins))
    return app


def _local(
    settings: Settings, served: catalog.Catalog, progress: ProgressDisplay
) -> tuple[Core, catalog.Catalog]:
    """Return a core in this process, and the models ready for it."""
    backend = make_backend(settings)
    for one in served.values():
        backend.prepare(one.model)
    profiles = Profiles(settings.profiles_folder, backend, time.perf_counter)
    core = LocalCore(
        backend,
        settings.max_batch_size,
        settings.max_batch_tokens,
        time.perf_counter,
        settings.max_wait_ms / 1000,
        ContentCache(settings.max_cache_bytes),
        profiles.get,
    )
    return core, served.profiled(partial(profiles.get, progress=progress))


def _tell(metrics: Metrics, core: Core, settings: Settings) -> None:
    """Have metrics tell of what the models run with."""
    computes = core.backend_name.partition("-")[0]  # the setting may be "auto"
    metrics.tell_build(version("rheostat"), version("torch"), computes, settings.device)
    metrics.watch_stats("cache", lambda: core.stats.cache, ("entries", "bytes"))
    if core.stats.backend is not None:
        metrics.watch_stats("backend", lambda: core.stats.backend, core.levels)


def _check_prefix(root_path: str) -> None:
    for path in SCOPES:
        if root_path and f"{path}/".startswith(f"{root_path}/"):
            raise SettingsError(
                f"root_path={root_path}: it could not be told from the server's own {path}"
            )


def _methods(app: FastAPI) -> dict[str, set[str]]:
    """Return the methods of every path."""
    found: dict[str, set[str]] = {}
    for route in iter_route_contexts(app.routes):
        found.setdefault(route.path_format or "", set()).update(route.methods or ())
    return found


def make_tracing(settings: Settings) -> Tracing | None:
    """Return what sends traces; None if nobody wants any, and then the SDK is not even imported.

    Raises:
        SettingsError: If it is not installed.
    """
    if settings.traces is None:
        return None
    try:
        from server.observe.tracing import Tracing
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"traces={settings.traces}: {error.name} is missing: pip install 'rheostat[otel]'"
        ) from None
    return Tracing.to_collector(settings.traces)


def _telemetry(tracing: Tracing | None) -> TelemetryConfig:
    """Let FastAPI make the spans of requests and nothing else, whatever the environment says."""
    return {
        "tracing": tracing is not None,
        "tracer_provider": None if tracing is None else tracing.provider,
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "auto_configure": False,
        "exclude": lambda scope: "path" in scope and route_path(scope) in PROBES,
    }
