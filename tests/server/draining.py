"""A small server to end: `python -m tests.server.draining PORT DRAIN_S GRACE_S [wait]`.

With ``wait`` it says that its port is bound and waits for a line before it listens.

`/readyz` says whether the server is ready; all other paths send the request's body back.
"""

from __future__ import annotations

import asyncio
import sys

from fastapi import FastAPI, Request, Response

from server.http import addresses, serving
from server.http.forms import Forms
from server.http.middleware import RequestId
from server.observe import logs
from server.settings import Settings


def main(port: str, drain_s: str, grace_s: str, wait: str = "") -> None:
    app = FastAPI()
    is_draining = asyncio.Event()

    @app.get("/readyz")
    async def readyz() -> Response:
        return Response(status_code=503 if is_draining.is_set() else 200)

    @app.post("/")
    async def echo(request: Request) -> Response:
        return Response(await request.body())

    app.add_middleware(RequestId, forms=Forms({}))
    settings = Settings(port=int(port), drain_s=float(drain_s), grace_s=float(grace_s))
    logs.configure(settings.log_format, settings.log_level)
    sockets = addresses.bound(settings.host, settings.port)
    if wait:
        sys.stdout.write("bound\n")
        sys.stdout.flush()
        sys.stdin.readline()
    serving.serve(app, settings, is_draining.set, sockets)


if __name__ == "__main__":
    main(*sys.argv[1:])
