"""Rankings in stages, through HTTP."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pytest
import torch
from fastapi.testclient import TestClient

from models.backends.torch import TorchBackend
from models.inputs import InputType
from models.nn.ragged import Value
from models.run.chain import Chain
from models.run.execution import never
from search.budget import Budget
from server import garbage
from server.app import create_app
from server.clients.caller import Caller
from server.clients.profile import ClientProfile
from server.inputs.sources import Passage, Source, decode_all
from server.question import Question
from server.rerank import rerank
from server.settings import Settings
from tests.search.offline.test_static_exit import write_pruned
from tests.tiny_headed import CROSS_ENCODER

QUERY = "w1 w3 w5"
DOCUMENTS = [" ".join(f"w{(i * j) % 12 + 1}" for j in range(1, 4 + i % 5)) for i in range(20)]
LONG_MS = 60_000.0


@pytest.fixture(scope="module")
def client(
    tmp_path_factory: pytest.TempPathFactory, all_settings: Settings
) -> Iterator[TestClient]:
    """A client of a server with cuts of one space and a static exit, and a cross-encoder."""
    folder = tmp_path_factory.mktemp("stages")
    write_pruned(folder / "tiny")
    (folder / CROSS_ENCODER).symlink_to(all_settings.models_folder / CROSS_ENCODER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "set_num_threads", lambda _: None)  # for other tests
        with TestClient(create_app(Settings(models=folder, policy="fixed"))) as client:
            yield client


class SlowBackend(TorchBackend):
    """Runs as usual; once it is slow, each chain takes a while on top."""

    slow_s = 0.0

    def run_chain(
        self, chain: Chain, inputs: Sequence[Value], stop: Callable[[], bool] = never
    ) -> Value:
        time.sleep(self.slow_s)
        return super().run_chain(chain, inputs, stop)


@pytest.fixture
def settled() -> Iterator[None]:
    """Leave what there is out of collections, as a server does: one may take half a second."""
    garbage.settle()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("slow_s", [0.06, 0.5])
def test_a_back_end_slower_than_predicted_makes_no_answer_late(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, slow_s: float
) -> None:
    """Also where not even the first stage is done by then."""
    backend = SlowBackend()
    monkeypatch.setattr("server.app.make_backend", lambda _: backend)
    settings = Settings(models=cast(Any, client.app).state.service.catalog["tiny"].folder)
    with TestClient(create_app(settings)) as slow:
        ask(slow)
        garbage.settle()
        backend.slow_s = slow_s
        found: dict[str, Any] = {}
        for _ in range(3):
            started = time.perf_counter()
            found = ask(slow, budget={"latency_ms": 200})
            # Less than the chain takes; how much less depends on what else the machine does.
            assert time.perf_counter() - started < 0.3
            assert sorted(order(found)) == list(range(20))
        if slow_s > 0.2:
            assert None in found["receipt"]["stages"]["reached"]


def test_documents_that_were_read_in_time_are_scored_and_the_others_follow(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(sources: Sequence[Source], input_type: InputType) -> list[Any]:
        time.sleep(0.2)  # for each document, on three threads
        return decode_all(sources, input_type)

    documents = [f"{one} {'w1 ' * 4000}" for one in DOCUMENTS]
    ask(client, documents=documents, truncate="right")
    monkeypatch.setattr("server.inputs.decoder.decode_all", slowly)
    fields: dict[str, Any] = {"documents": documents, "truncate": "right", "top_n": 20}
    unread, found = list[int](), dict[str, Any]()
    for _ in range(4):  # it learns how long a first stage takes here
        started = time.perf_counter()
        found = ask(client, **fields, budget={"latency_ms": 1000})
        assert time.perf_counter() - started < 1.5
        reached = found["receipt"]["stages"]["reached"]
        unread = [i for i in range(20) if reached[i] is None]
        if len(unread) < 20:
            break
    assert 0 < len(unread) < 20
    assert order(found)[-len(unread) :] == unread


def ask(client: TestClient, path: str = "/v1/rerank", **fields: Any) -> dict[str, Any]:
    headers = fields.pop("headers", {})
    body = {"model": "tiny", "query": QUERY, "documents": DOCUMENTS, **fields}
    answer = client.post(path, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def order(answer: dict[str, Any]) -> list[int]:
    return [one["index"] for one in answer["results"]]


@pytest.mark.parametrize("model", ["tiny", CROSS_ENCODER])
def test_the_first_are_those_of_the_whole_model_among_what_reached_it(
    client: TestClient, model: str
) -> None:
    """Which documents reach it depends on agreements that the table of a drawn model invents."""
    whole = ask(client, model=model)
    found = ask(client, model=model, top_n=3, in_stages=True)
    stages = found["receipt"]["stages"]
    last = len(stages["rungs"]) - 1
    assert last > 0
    reached = [i for i in order(whole) if stages["reached"][i] == last]
    assert len(reached) >= 3
    assert order(found) == reached[:3]
    assert stages["expected_overlap"] > 0.9
    assert sum(run["flops"] for run in stages["runs"]) == found["receipt"]["total_flops"]
    assert whole["receipt"]["stages"] is None
    scores = {one["index"]: one["relevance_score"] for one in whole["results"]}
    for one in found["results"]:
        assert one["relevance_score"] == pytest.approx(scores[one["index"]], abs=1e-5)


@pytest.mark.parametrize("model", ["tiny", CROSS_ENCODER])
def test_with_enough_time_all_are_scored(client: TestClient, model: str) -> None:
    """How closely depends on times that are measured here: a rung that takes none is no rung."""
    receipt = ask(client, model=model, budget={"latency_ms": LONG_MS})["receipt"]
    assert None not in receipt["stages"]["reached"]
    assert receipt["stages"]["expected_overlap"] > 0.9


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
def test_where_no_time_is_left_documents_stay_as_they_came(client: TestClient, path: str) -> None:
    """Also where the deadline stands in a header, as those of any protocol may."""
    found = ask(client, path, headers={"x-rheostat-latency-ms": "0.001"})
    assert order(found) == list(range(20))
    if path != "/v2/rerank":
        assert found["receipt"]["stages"]["reached"] == [None] * 20
        by_chance = 10 / 20
        assert found["receipt"]["stages"]["expected_overlap"] == pytest.approx(by_chance)


def test_tei_has_a_deadline_by_header_too(client: TestClient) -> None:
    body = {"query": QUERY, "texts": DOCUMENTS, "model": "tiny"}
    headers = {"x-rheostat-latency-ms": "0.001"}
    found = client.post("/rerank", json=body, headers=headers).json()
    assert [one["index"] for one in found] == list(range(20))


def test_a_clients_own_budget_is_a_deadline_too(client: TestClient) -> None:
    service = cast(Any, client.app).state.service
    profile = ClientProfile(budget=Budget(latency_ms=LONG_MS))
    question = Question(None, None, Budget(), caller=Caller("shop", profile=profile))
    documents = [Passage(f"documents[{i}]", text) for i, text in enumerate(DOCUMENTS)]
    assert client.portal is not None
    ranking = client.portal.call(
        rerank, service, service.catalog["tiny"], question, Passage("query", QUERY), documents
    )
    assert ranking.stages is not None


@pytest.mark.parametrize("part", [0.2, 0.5, 0.8])
def test_a_ceiling_holds_for_the_mean_and_is_spent_on_the_first(
    client: TestClient, part: float
) -> None:
    whole = ask(client)["receipt"]
    found = ask(client, in_stages=True, budget={"fraction": part}, top_n=5)
    assert found["receipt"]["total_flops"] <= part * whole["total_flops"] * 1.01
    reached = found["receipt"]["stages"]["reached"]
    assert None not in reached
    flops = ask(client, in_stages=True, budget={"flops": part * whole["total_flops"] / 21})
    assert flops["receipt"]["total_flops"] <= part * whole["total_flops"] * 1.01


def test_a_quality_is_kept_with_less_compute(client: TestClient) -> None:
    some = ask(client, in_stages=True, budget={"min_quality": 0.7}, top_n=5)["receipt"]
    more = ask(client, in_stages=True, budget={"min_quality": 0.99}, top_n=5)["receipt"]
    assert some["stages"]["expected_overlap"] >= 0.7
    assert more["stages"]["expected_overlap"] >= 0.99
    assert some["total_flops"] < more["total_flops"]


def test_scores_follow_the_order(client: TestClient) -> None:
    found = ask(client, in_stages=True, budget={"fraction": 0.3}, top_n=20)["results"]
    scores = [one["relevance_score"] for one in found]
    assert scores == sorted(scores, reverse=True)


def test_a_cascade_and_false_keep_one_subnet_for_all(client: TestClient) -> None:
    found = ask(client, budget={"latency_ms": LONG_MS}, in_stages=False)
    assert found["receipt"]["stages"] is None


@pytest.mark.parametrize(
    "fields", [{"cascade": {"depth": 1, "keep": 1}}, {"query_budget": {"fraction": 0.5}}]
)
def test_what_does_not_go_together_is_refused(client: TestClient, fields: dict[str, Any]) -> None:
    body = {"model": "tiny", "query": QUERY, "documents": DOCUMENTS, "in_stages": True}
    answer = client.post("/v1/rerank", json={**body, **fields})
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "in_stages"
