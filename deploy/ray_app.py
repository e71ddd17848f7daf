"""The server on a Ray cluster: `serve run deploy.ray_app:app models=/shared/models`.

Every model is a deployment that runs the whole server for that model alone, one replica for each
device, and scales by its requests under way. One router answers at the server's own paths and
passes each request on to the model that it names (`deploy/ray_router.py`).
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application, Deployment
from ray.serve.config import AutoscalingConfig
from ray.serve.handle import DeploymentHandle

from deploy.exchange import Answered, Asked, ask
from deploy.ray_router import router_app
from deploy.ray_settings import RaySettings
from models.inputs.signature import Signature
from server import catalog, process
from server.app import create_app
from server.catalog import CatalogError

_HEALTH_PERIOD_S, _HEALTH_TIMEOUT_S = 5.0, 30.0


class Model:
    """The server for one model, run within a replica: start, warm-up and end of its application."""

    async def __init__(self, settings: RaySettings) -> None:  # type: ignore[misc]  # Ray awaits it
        process.tune()
        self._app = self.make_app(settings)
        self._running = AsyncExitStack()
        await self._running.enter_async_context(self._app.router.lifespan_context(self._app))

    def make_app(self, settings: RaySettings) -> FastAPI:
        """Return the application that answers here."""
        return create_app(settings)

    async def __del__(self) -> None:
        """End the application; Ray calls it once requests under way have been answered."""
        await self._running.aclose()

    async def answer(self, asked: Asked) -> Answered:
        """Answer a request that a router has passed on."""
        return await ask(self._app, asked, serve.get_replica_context().replica_tag)

    async def check_health(self) -> None:
        """Tell Ray, which replaces a replica whose engine has died."""
        if (answered := await self.answer(Asked("GET", "/readyz"))).status != 200:
            raise RuntimeError(answered.body.decode())


@serve.ingress()
class Router:
    """Stands in front of the models."""

    def __init__(
        self,
        settings: RaySettings,
        inputs: dict[str, Signature],
        handles: dict[str, DeploymentHandle[Any]],
    ) -> None:
        self._arguments = settings, inputs, handles

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application; Ray calls it once, on the replica."""
        return router_app(*self._arguments)


def app(settings: RaySettings) -> Application:
    """Return the application for `serve run`, which takes settings as arguments.

    What is not given comes from the environment, as for `rheostat serve`.
    """
    return application(settings, Model)


def application(settings: RaySettings, model: type[Model]) -> Application:
    """Return the application for `serve.run`.

    Args:
        settings: Of every replica. Their folders must be there on every node.
        model: Runs a model.

    Raises:
        CatalogError: If the models cannot be served.
    """
    inputs: dict[str, Signature] = {}
    models: dict[str, Application] = {}
    for folder in catalog.find_checkpoints(settings.models_folder):
        served = catalog.load_one(folder)  # what cannot be served is not deployed
        if served.name in inputs:
            raise CatalogError(f"{folder}: another checkpoint is named {served.name!r} as well")
        inputs[served.name] = served.inputs.signature
        own = own_settings(settings, folder, served.name)
        models[served.name] = deployment(served.name, own, model).bind(own)
    catalog.check_aliases(settings.names, inputs)
    router = serve.deployment(
        name="router",
        num_replicas=settings.routers,
        ray_actor_options={"num_cpus": 0},  # it waits; the models' share stays theirs
        **_bounds(settings, len(models)),
    )(Router)
    return router.bind(settings, inputs, models)


def own_settings(settings: RaySettings, folder: Path, model: str) -> RaySettings:
    """Return the settings of the server that runs one model.

    Args:
        settings: Of the cluster.
        folder: Of the model's checkpoint.
        model: Its name.
    """
    aliases = [f"{alias}={name}" for alias, name in settings.names.items() if name == model]
    return settings.model_copy(
        update={
            "models": folder,
            "default_models": None,  # the router's business, as is the next
            "cors_origins": None,
            "aliases": ",".join(aliases) or None,
            "num_threads": settings.num_threads or 1,
        }
    )


def deployment(name: str, settings: RaySettings, model: type[Model]) -> Deployment:
    """Return how one model is deployed.

    Args:
        name: Of the model.
        settings: With its folder alone, and a number of threads.
        model: Runs it.
    """
    return serve.deployment(
        name=f"model-{name}",
        ray_actor_options={
            "num_cpus": settings.num_threads,
            "num_gpus": 1 if settings.device == "cuda" else 0,
        },
        autoscaling_config=AutoscalingConfig(
            min_replicas=settings.min_replicas,
            max_replicas=settings.max_replicas,
            target_ongoing_requests=settings.target_ongoing,
            upscale_delay_s=settings.upscale_delay_s,
            downscale_delay_s=settings.downscale_delay_s,
        ),
        health_check_period_s=_HEALTH_PERIOD_S,
        health_check_timeout_s=_HEALTH_TIMEOUT_S,
        **_bounds(settings, 1),
    )(model)


def _bounds(settings: RaySettings, num_models: int) -> dict[str, Any]:
    """Return what bounds a deployment's queues.

    A replica takes whatever the engine may hold: load policies go by the wait that the engine sees,
    and its refusals say when to come back. What Ray holds back beyond that is bounded as well.
    """
    most = settings.max_queue * num_models
    return {
        "max_ongoing_requests": most,
        "max_queued_requests": most,
        "graceful_shutdown_timeout_s": settings.grace_s,
        "graceful_shutdown_wait_loop_s": 0.2,
    }
