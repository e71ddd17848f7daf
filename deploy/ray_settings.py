"""What can be set where Ray Serve runs the server."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from server.settings import Settings


class RaySettings(Settings):
    """The server's settings, for each replica, and how many replicas there are.

    Where to listen is told to Ray (`http_options` of `serve.start` or of a configuration file); the
    host is repeated here because it decides whether keys are needed.
    """

    host: str = Field(default="0.0.0.0", description="Address on which Ray's proxies listen.")

    min_replicas: int = Field(default=1, ge=1, description="Of each model, at least.")
    max_replicas: int = Field(default=4, ge=1, description="Of each model, at most.")
    target_ongoing: float = Field(
        default=32.0,
        gt=0,
        allow_inf_nan=False,
        description="Requests in a replica, waiting or run, above which there shall be more.",
    )
    upscale_delay_s: float = Field(default=10.0, ge=0, description="How long more are needed.")
    downscale_delay_s: float = Field(default=300.0, ge=0, description="How long fewer would do.")
    routers: int = Field(default=1, ge=1, description="Replicas of what stands in front of models.")
    request_timeout_s: float = Field(
        default=60.0, gt=0, allow_inf_nan=False, description="Longer requests end with 503."
    )

    @model_validator(mode="after")
    def _check_cluster(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas={self.min_replicas} exceeds max_replicas={self.max_replicas}"
            )
        if self.grpc_port is not None:
            raise ValueError(
                f"grpc_port={self.grpc_port}: replicas of one machine would share it; not with Ray"
            )
        if self.root_path:
            raise ValueError(f"root_path={self.root_path}: Ray's route_prefix says that; not here")
        if self.device not in ("cpu", "cuda"):
            raise ValueError(
                f"device={self.device}: Ray gives every replica a device of its own; cpu or cuda"
            )
        return self
