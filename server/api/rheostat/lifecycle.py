"""`POST /v1/models/{model}/load`, `reload`, `unload`, `GET /v1/checkpoints`: for operators."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field

from server.api.documentation import errors
from server.lifecycle import Lifecycle
from server.served import Served


class Change(BaseModel):
    """What is served by a name now."""

    model: str
    version: str | None = Field(description="Of the checkpoint; null: no longer served.")


class CheckpointEntry(BaseModel):
    """A checkpoint in the models' folder."""

    model: str
    family: str
    version: str = Field(description="On disk.")
    served_version: str | None = Field(description="In memory; null: not served.")


class CheckpointList(BaseModel):
    """All checkpoints that can be read."""

    checkpoints: list[CheckpointEntry]


def routes(lifecycle: Lifecycle) -> APIRouter:
    """Return the routes that change what is served."""
    router = APIRouter(prefix="/v1", tags=["operation"])

    @router.get("/checkpoints", responses=errors())
    def checkpoints() -> CheckpointList:
        """List the checkpoints of the models' folder, served or not."""
        return CheckpointList(
            checkpoints=[
                CheckpointEntry(
                    model=one.name,
                    family=one.family,
                    version=one.version,
                    served_version=one.served_version,
                )
                for one in lifecycle.stored()
            ]
        )

    @router.post("/models/{model:path}/load", responses=errors(404, 409, 422, 429, 500, 503))
    async def load(model: str) -> Change:
        """Serve a model of the models' folder that is not served yet."""
        return _change(await lifecycle.load(model))

    @router.post("/models/{model:path}/reload", responses=errors(404, 409, 422, 429, 500, 503))
    async def reload(model: str) -> Change:
        """Read a model's checkpoint again and switch to it; no request fails by it.

        A checkpoint that cannot be served is refused, and the old model goes on.
        """
        return _change(await lifecycle.reload(model))

    @router.post("/models/{model:path}/unload", responses=errors(404, 409, 503))
    async def unload(model: str) -> Change:
        """Serve a model no longer; requests under way are answered."""
        return Change(model=await lifecycle.unload(model), version=None)

    return router


def _change(served: Served) -> Change:
    return Change(model=served.name, version=served.manifest.version)
