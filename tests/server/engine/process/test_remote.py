"""An engine behind a socket answers as one in the process does, and no request hangs if it dies."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from torch import Tensor

from models.nn.ragged import Value
from models.run.chain import Chain
from models.run.execution import never
from server.engine.item import QueueItem
from server.engine.process.remote import RemoteCore
from server.served import Served
from server.settings import Settings
from tests.server.engine.process.split import HostThread, hosting, split_app

WAIT_S = 20


@pytest.fixture
def engine(text_settings: Settings, tmp_path: Path) -> Iterator[HostThread]:
    with hosting(text_settings, tmp_path) as engine:
        yield engine


@pytest.fixture
def client(text_settings: Settings, engine: HostThread) -> Iterator[TestClient]:
    with TestClient(split_app(text_settings, engine)) as client:
        yield client


def embed(client: TestClient, *texts: str, **fields: Any) -> Any:
    body = {"model": "tiny-text", "input": list(texts), **fields}
    return client.post("/v1/embeddings", json=body)


def vectors(answer: Any) -> Tensor:
    assert answer.status_code == 200, answer.text
    return torch.tensor([one["embedding"] for one in answer.json()["data"]])


def until(is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < end, "never"
        time.sleep(0.01)


def test_answers_are_those_of_an_engine_in_the_process(
    client: TestClient, text_client: TestClient
) -> None:
    texts = ("a dog", "two dogs run", "a cat sleeps")
    for fields in ({}, {"budget": {"fraction": 0.5}}, {"dimensions": 4}):
        found, expected = embed(client, *texts, **fields), embed(text_client, *texts, **fields)
        torch.testing.assert_close(vectors(found), vectors(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "fields",
    [{"cascade": {"depth": 1, "keep": 2}}, {"in_stages": True, "budget": {"fraction": 0.9}}],
)
def test_each_item_runs_by_its_own_plan_and_goes_on_from_what_was_kept(
    client: TestClient, text_client: TestClient, fields: dict[str, Any]
) -> None:
    body = {
        "model": "tiny-text",
        "query": "a dog",
        "documents": ["a cat", "two dogs run", "dogs"],
        **fields,
    }
    found, expected = (one.post("/v1/rerank", json=body) for one in (client, text_client))
    assert found.status_code == 200, found.text
    scores = [[one["relevance_score"] for one in x.json()["results"]] for x in (found, expected)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert found.json()["receipt"]["macs"] == expected.json()["receipt"]["macs"]


def test_the_http_side_holds_no_weights(client: TestClient, engine: HostThread) -> None:
    core = client.app.state.core  # type: ignore[attr-defined]
    assert isinstance(core, RemoteCore)
    assert all(
        parameter.device.type == "meta"
        for known in core.models.known
        for parameter in known.served.model.parameters()
    )


def served_of(core: RemoteCore) -> Served:
    return next(known.served for known in core.models.known if known.served.name == "tiny-text")


class Gate:
    """Holds the back end of a host."""

    def __init__(self, engine: HostThread) -> None:
        self.entered, self.open = threading.Event(), threading.Event()
        backend = engine.host.backend
        run_chain = backend.run_chain

        def gated(chain: Chain, inputs: Sequence[Value], stop: Callable[[], bool] = never) -> Value:
            self.entered.set()
            assert self.open.wait(WAIT_S)
            return run_chain(chain, inputs, stop)

        backend.run_chain = gated  # type: ignore[method-assign]


def test_whoever_waits_gets_a_503_when_the_engine_goes_and_the_next_one_has_the_models(
    client: TestClient, engine: HostThread
) -> None:
    before = vectors(embed(client, "a dog"))
    gate, answers = Gate(engine), list[Any]()
    asking = threading.Thread(target=lambda: answers.append(embed(client, "another dog")))
    asking.start()
    assert gate.entered.wait(WAIT_S)
    for connection in engine.host._connections:
        connection.close()  # as the death of the process would
    asking.join(WAIT_S)
    (answer,) = answers
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "not_ready"
    gate.open.set()
    engine.replace()
    until(lambda: client.get("/readyz").status_code == 200)
    assert torch.equal(vectors(embed(client, "a dog")), before)


def test_items_whose_client_has_left_are_not_run(client: TestClient, engine: HostThread) -> None:
    app: Any = client.app
    core: RemoteCore = app.state.core
    served = served_of(core)
    prepared = served.prepare(served.elastic.space.largest, ["similarity"])
    item = QueueItem(prepared, served.inputs.example())
    gate = Gate(engine)
    asking = threading.Thread(target=lambda: embed(client, "a dog"))
    asking.start()
    assert gate.entered.wait(WAIT_S)
    (connection,) = engine.host._connections

    async def leave() -> None:
        with app.state.engine.reserve(1) as room:
            task = asyncio.create_task(room.submit([item]))
            while len(connection._waiting) < 2:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait([task])

    assert client.portal is not None
    client.portal.call(leave)
    until(lambda: len(connection._waiting) == 1)
    assert len(engine.host.worker._queue) == 0
    gate.open.set()
    asking.join(WAIT_S)
    assert not core._waiting
    assert app.state.engine.depth == 0


def test_a_broken_request_fails_alone(client: TestClient, engine: HostThread) -> None:
    core = client.app.state.core  # type: ignore[attr-defined]
    original = core.models.recipe
    core.models.recipe = lambda prepared: b"no pickle"
    answer = embed(client, "a dog")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "inference_failed")
    core.models.recipe = original
    assert embed(client, "a dog").status_code == 200


def test_reloads_under_way_lose_nothing(client: TestClient) -> None:
    statuses: list[int] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            statuses.append(embed(client, "a dog").status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    for _ in range(3):
        assert client.post("/v1/models/tiny-text/reload").status_code == 200
    is_over.set()
    asking.join(WAIT_S)
    assert set(statuses) == {200}


def test_processes_share_load_metrics_and_models(
    text_settings: Settings, engine: HostThread
) -> None:
    settings = text_settings.model_copy(update={"http_workers": 2})
    first_app, second_app = (split_app(settings, engine, is_shared=True) for _ in range(2))
    with TestClient(first_app) as first, TestClient(second_app) as second:
        assert embed(first, "a dog").status_code == embed(second, "a cat").status_code == 200
        for client in (first, second):
            line = 'rheostat_requests_total{model="tiny-text",outcome="ok"} 2.0'
            assert line in client.get("/metrics").text
            assert "rheostat_batch_size_count" in client.get("/metrics").text
        assert first.post("/v1/models/tiny/unload").status_code == 200
        assert [one["id"] for one in second.get("/v1/models").json()["data"]] == ["tiny-text"]
        assert first.post("/v1/models/tiny/load").status_code == 200
        assert len(second.get("/v1/models").json()["data"]) == 2
        gate = Gate(engine)
        asking = threading.Thread(target=lambda: embed(first, "a third"))
        asking.start()
        assert gate.entered.wait(WAIT_S)
        until(lambda: second_app.state.engine.depth == 1)
        gate.open.set()
        asking.join(WAIT_S)
        until(lambda: second_app.state.engine.depth == 0)


def test_a_model_that_changed_on_disk_is_refused_until_it_is_reloaded(
    client: TestClient, engine: HostThread, text_settings: Settings
) -> None:
    core = client.app.state.core  # type: ignore[attr-defined]
    served = served_of(core)
    with pytest.raises(Exception, match="has changed while it was read"):
        engine.host.models.load(object(), served.folder, "0" * 64)
