"""Whether the server listens for gRPC, which is an extra."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING

from server.api.kserve.inference import Inference
from server.clients.keys import Scope
from server.http.auth import Authenticator
from server.settings import Settings, SettingsError

if TYPE_CHECKING:
    from server.observe.tracing import Tracing


def grpc_server(
    settings: Settings, inference: Inference, authenticator: Authenticator, tracing: Tracing | None
) -> AbstractAsyncContextManager[object]:
    """Return what listens for gRPC while it is entered; nothing where no port is set."""
    if settings.grpc_port is None:
        return nullcontext()
    try:
        from server.api.kserve.grpc import GrpcServer
        from server.api.kserve.grpc_calls import Calls  # the extra `grpc` may not be installed
    except ImportError as error:
        raise SettingsError(f"grpc_port needs the extra grpc: {error}") from None
    return GrpcServer(
        inference,
        Calls(lambda metadata: authenticator.authenticate(Scope.INFER, metadata), tracing),
        settings.host,
        settings.grpc_port,
        settings.max_body_bytes,
        settings.max_queue,
        settings.grace_s,
    )
