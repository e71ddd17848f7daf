"""The Open Inference Protocol over REST while the server is full, starting, or left alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

from fastapi import FastAPI

from server.api.kserve import rest as kserve
from server.api.kserve.inference import Inference
from server.api.options import ReadOptions
from server.engine.engine import Engine
from server.engine.local import LocalCore
from server.http.forms import Forms
from server.http.forms import install as install_forms
from server.http.middleware import RequestId
from server.inputs.decoder import Decoder
from server.served import Served
from server.service import Service
from tests.server.api.kserve.samples import IMAGES, tensor
from tests.server.around import service_around, until
from tests.server.backends import HeldBackend
from tests.server.samples import Connection, run, text_of

MAX_QUEUE = 3
INFER = "/v2/models/tiny/infer"


class Running(NamedTuple):
    """An app in this event loop, and what holds its requests."""

    app: FastAPI
    service: Service
    engine: Engine
    backend: HeldBackend

    def ask(self, num_images: int = 1, **parameters: Any) -> tuple[Connection, asyncio.Task[None]]:
        """Send a request."""
        images = [text_of(IMAGES[0])] * num_images
        inputs = [tensor("image", "BYTES", [num_images], images)]
        connection = Connection(INFER, {})
        connection.body(json.dumps({"inputs": inputs, "parameters": parameters}).encode())
        return connection, asyncio.create_task(connection.serve(self.app))

    @property
    def num_waiting(self) -> int:
        """Inputs that are decoded and have not begun."""
        core = self.engine.core
        assert isinstance(core, LocalCore)
        return len(core.worker._queue)

    def text(self) -> str:
        """Return the metrics."""
        return self.service.metrics.text().decode()


@asynccontextmanager
async def running(served: Served, decoder: Decoder) -> AsyncIterator[Running]:
    """Serve one model, one input at a time."""
    backend = HeldBackend()
    async with service_around(served, decoder, backend, 1, MAX_QUEUE) as (service, engine):
        app = FastAPI()
        app.include_router(kserve.routes(Inference(service, 4, 4)))
        forms = Forms(kserve.FORMS)
        install_forms(app, forms)
        app.add_middleware(ReadOptions)
        app.add_middleware(RequestId, forms=forms)
        yield Running(app, service, engine, backend)


def headers(connection: Connection) -> dict[str, str]:
    return {name.decode(): text.decode() for name, text in connection.sent[0]["headers"]}


def said(connection: Connection) -> Any:
    return json.loads(b"".join(message.get("body", b"") for message in connection.sent[1:]))


def test_a_full_server_is_503_says_when_to_come_back_and_counts_it(
    served: Served, decoder: Decoder
) -> None:
    # Triton sends no Retry-After and leaves these out of its failure metric.
    async def scenario() -> None:
        async with running(served, decoder) as server:
            server.backend.hold()
            first, answering = server.ask(2)
            await server.backend.until_held()
            second, refusing = server.ask(2)
            await refusing
            server.backend.release()
            await answering
            assert first.status == 200
            assert second.status == 503
            assert int(headers(second)["retry-after"]) >= 1
            assert int(headers(second)["retry-after-ms"]) > 0
            assert "2 inputs are being served and 2 more would exceed 3" in said(second)["error"]
            assert 'rheostat_requests_total{model="tiny",outcome="refused"} 1.0' in server.text()

    run(scenario())


def test_a_client_that_leaves_takes_its_request_along(served: Served, decoder: Decoder) -> None:
    async def scenario() -> None:
        async with running(served, decoder) as server:
            server.backend.hold()
            _, answering = server.ask()
            await server.backend.until_held()
            gone, leaving = server.ask()
            await until(lambda: "rheostat_queue_depth 2.0" in server.text())
            gone.leave()
            await leaving
            assert "rheostat_queue_depth 1.0" in server.text()
            assert 'rheostat_requests_total{model="tiny",outcome="cancelled"} 1.0' in server.text()
            server.backend.release()
            await answering

    run(scenario())


def test_priority_1_goes_first_and_greater_ones_step_back(served: Served, decoder: Decoder) -> None:
    async def scenario() -> None:
        async with running(served, decoder) as server:
            server.backend.hold()
            _, held = server.ask()
            await server.backend.until_held()
            order: list[str] = []

            def note(name: str, _: asyncio.Task[None]) -> None:
                order.append(name)

            tasks = []
            for name, priority in (("low", 3), ("high", 1)):
                _, task = server.ask(priority=priority)
                task.add_done_callback(partial(note, name))
                tasks.append(task)
                await until(lambda: server.num_waiting == len(tasks))
            server.backend.release()
            await asyncio.gather(held, *tasks)
            assert order == ["high", "low"]

    run(scenario())


def test_a_timeout_that_passes_while_waiting_is_504(served: Served, decoder: Decoder) -> None:
    async def scenario() -> None:
        async with running(served, decoder) as server:
            server.backend.hold()
            _, held = server.ask()
            await server.backend.until_held()
            late, answering = server.ask(timeout=1000)
            await until(lambda: server.num_waiting == 1)
            deadline = asyncio.get_running_loop().time() + 0.001
            await until(lambda: asyncio.get_running_loop().time() > deadline)
            server.backend.release()
            await asyncio.gather(held, answering)
            assert late.status == 504
            assert "deadline passed" in said(late)["error"]

    run(scenario())


def test_a_server_that_is_not_ready_is_503_and_alive(served: Served, decoder: Decoder) -> None:
    async def scenario() -> None:
        async with running(served, decoder) as server:

            async def get(path: str) -> Connection:
                connection = Connection(path, {}, "GET")
                connection.body(b"")
                await connection.serve(server.app)
                return connection

            assert (await get("/v2/health/live")).status == 200
            for path in ("/v2/health/ready", "/v2/models/tiny/ready"):
                answer = await get(path)
                assert answer.status == 503
                assert said(answer)["error"].startswith("not ready")
            await server.service.warm_up()
            assert (await get("/v2/health/ready")).status == 200

    run(scenario())
