"""The router in front of the real applications of two models, without a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

pytest.importorskip("ray", reason="needs the extra ray", exc_type=ImportError)

from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from deploy.exchange import Answered, Asked, ask
from deploy.ray_app import Model, deployment
from deploy.ray_router import router_app
from deploy.ray_settings import RaySettings
from models.inputs.signature import Signature
from server.app import create_app
from server.clients.database import Database
from server.clients.keys import Scope, new_key
from server.clients.profile import ClientProfile
from server.clients.store import Store
from server.settings import SettingsError
from tests.server.samples import image
from tests.tiny import write_checkpoint
from tests.tiny_text import write_text_checkpoint

IMAGE = Signature({"image": "image"}, frozenset({"image"}))
TEXT = Signature({"text": "text"}, frozenset({"text"}))
INPUTS = {"tiny": IMAGE, "tiny-text": TEXT}
IMAGES = [("image", ("a.png", image(), "image/png"))]


class Gathered:
    """What Ray returns for a call of every replica."""

    def __init__(self, answers: list[Any]) -> None:
        self._answers = answers

    async def results_async(self) -> list[Answered]:
        return [await one for one in self._answers]


class Replicas:
    """Stands for Ray's handle: so many replicas of one application, which has its own loop."""

    def __init__(self, app: Any, portal: BlockingPortal | None, count: int = 1) -> None:
        self.app = app
        self.portal = portal
        self.count = count
        self.asked: list[str] = []
        self.error: Exception | None = None
        self.answer = self

    async def remote(self, asked: Asked, replica: int = 0) -> Answered:
        self.asked.append(asked.path)
        if self.error:
            raise self.error
        if self.portal is None:
            return await ask(self.app, asked, f"r{replica}")
        running = self.portal.start_task_soon(ask, self.app, asked, f"r{replica}")
        return await asyncio.wrap_future(running)

    def broadcast(self, method: str, asked: Asked) -> Gathered:
        assert method == "answer"
        return Gathered([self.remote(asked, replica) for replica in range(self.count)])


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> RaySettings:
    folder = tmp_path_factory.mktemp("models")
    write_checkpoint(folder / "tiny")
    write_text_checkpoint(folder / "tiny-text")
    profiles = tmp_path_factory.mktemp("profiles")
    return RaySettings(
        models=folder,
        profiles=profiles,
        host="127.0.0.1",
        database=f"sqlite:///{profiles / 'clients.db'}",
        policy="fixed",
        request_timeout_s=20,
    )


@pytest.fixture(scope="module")
def applications(settings: RaySettings) -> Iterator[Mapping[str, TestClient]]:
    with ExitStack() as running:
        found = {}
        for name in INPUTS:
            own = settings.model_copy(update={"models": settings.models_folder / name})
            found[name] = running.enter_context(TestClient(create_app(own)))
        yield found


@pytest.fixture
def handles(applications: Mapping[str, TestClient]) -> dict[str, Any]:
    return {name: Replicas(one.app, one.portal) for name, one in applications.items()}


@pytest.fixture
def client(settings: RaySettings, handles: dict[str, Any]) -> TestClient:
    return TestClient(router_app(settings, INPUTS, handles))


def test_the_body_the_form_or_the_path_names_the_model(
    client: TestClient, handles: dict[str, Any]
) -> None:
    texts = client.post("/v1/embeddings", json={"model": "tiny-text", "input": "w1"})
    form = {"request": '{"model": "tiny"}'}
    images = client.post("/v1/infer", files=IMAGES, data=form)
    described = client.get("/v1/models/tiny")
    assert [one.status_code for one in (texts, images, described)] == [200, 200, 200]
    assert texts.json()["model"] == "tiny-text"
    assert handles["tiny"].asked == ["/v1/infer", "/v1/models/tiny"]
    assert handles["tiny-text"].asked == ["/v1/embeddings"]


def test_a_request_without_a_name_goes_to_the_model_that_takes_such_inputs(
    client: TestClient,
) -> None:
    images = client.post("/v1/infer", files=IMAGES)
    texts = client.post("/v1/rerank", json={"query": "w1", "documents": ["w2", "w3"]})
    plan = client.post("/v1/plan", json={"tokens": 4})
    named = [one.json()["receipt"]["model"] for one in (images, texts, plan)]
    assert named == ["tiny", "tiny-text", "tiny-text"]


def test_where_two_models_could_be_meant_the_name_is_required(
    settings: RaySettings, handles: dict[str, Any]
) -> None:
    inputs = {"tiny": TEXT, "tiny-text": TEXT}
    client = TestClient(router_app(settings, inputs, handles))
    answer = client.post("/v1/rerank", json={"query": "w1", "documents": ["w2"]})
    assert answer.status_code == 422
    message = "model is required; one of ['tiny', 'tiny-text']"
    assert answer.json()["error"]["message"] == message


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank"])
def test_an_unknown_model_is_refused_with_all_names_in_the_paths_own_form(
    client: TestClient, path: str
) -> None:
    answer = client.post(path, json={"model": "huge", "input": "w1"})
    error = answer.json()["error"]
    assert answer.status_code == 404
    assert error["message"] == "model='huge' is not served; one of ['tiny', 'tiny-text']"
    assert ("param" in error) == (path == "/v1/embeddings")


def test_names_are_told_to_nobody_whom_the_models_turn_away(
    settings: RaySettings, handles: dict[str, Any]
) -> None:
    handles["tiny"] = Replicas(JSONResponse({"error": "who are you?"}, 401), None)
    client = TestClient(router_app(settings, INPUTS, handles))
    answer = client.post("/v1/rerank", json={"model": "huge", "query": "w1", "documents": ["w2"]})
    assert answer.status_code == 401
    assert "tiny-text" not in answer.text


def test_for_a_client_with_models_of_its_own_there_are_no_others(
    settings: RaySettings, tmp_path: Path
) -> None:
    database = f"sqlite:///{tmp_path / 'clients.db'}"
    text, key = new_key({Scope.INFER}, "shop", "", 0.0, None)

    async def store() -> None:
        stored = Database(database)
        await stored.migrate()
        await Store(stored, 1).put_client("shop", ClientProfile(models=("tiny-text",)))
        await Store(stored, 1).add_key(key)
        await stored.close()

    asyncio.run(store())
    with ExitStack() as running:
        handles: dict[str, Any] = {}
        for name in INPUTS:
            only = {"models": settings.models_folder / name, "database": database}
            app = create_app(settings.model_copy(update=only))
            handles[name] = Replicas(app, running.enter_context(TestClient(app)).portal)
        inputs = dict.fromkeys(INPUTS, TEXT)
        own = settings.model_copy(update={"default_models": "tiny,tiny-text"})
        client = TestClient(router_app(own, inputs, handles))
        client.headers["x-api-key"] = text
        texts = {"query": "w1", "documents": ["w2"]}
        assert client.post("/v1/rerank", json=texts).json()["model"] == "tiny-text"
        for name in ("tiny", "huge"):
            refused = client.post("/v1/rerank", json={"model": name, **texts})
            assert refused.status_code == 404
            message = f"model='{name}' is not served; one of ['tiny-text']"
            assert refused.json()["error"]["message"] == message
        assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["tiny-text"]
        assert client.get("/v1/nothing").json()["error"]["type"] == "unknown_path"


def test_a_model_without_a_replica_is_not_ready(
    client: TestClient, handles: dict[str, Any]
) -> None:
    handles["tiny"].count = 0
    assert client.post("/v1/models/tiny/reload").status_code == 503
    assert client.get("/metrics").status_code == 503


def test_what_cannot_be_read_is_refused_by_a_model_as_the_server_does(client: TestClient) -> None:
    json = {"content-type": "application/json"}
    broken = client.post("/v1/embeddings", content=b'{"model": ', headers=json)
    typed = client.post("/v1/embeddings", json={"model": 3, "input": "w1"})
    assert (broken.status_code, typed.status_code) == (400, 400)
    assert "is not JSON" in broken.json()["error"]["message"]
    assert typed.json()["error"]["param"] == "model"


def test_lists_are_put_together(client: TestClient) -> None:
    assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["tiny", "tiny-text"]
    found = client.get("/v1/checkpoints").json()["checkpoints"]
    assert [one["model"] for one in found] == ["tiny", "tiny-text"]


def test_it_is_ready_when_every_model_is(
    client: TestClient, handles: dict[str, Any], settings: RaySettings
) -> None:
    assert client.get("/readyz").json() == {"ready": True}
    own = settings.model_copy(update={"models": settings.models_folder / "tiny"})
    handles["tiny"] = Replicas(create_app(own), None)  # never started
    client = TestClient(router_app(settings, INPUTS, handles))
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").json() == {"alive": True}


def test_metrics_are_those_of_every_replica(client: TestClient, handles: dict[str, Any]) -> None:
    handles["tiny"].count = 2
    text = client.get("/metrics").text
    assert text.count("# TYPE rheostat_requests_total counter") == 1
    for replica in ("r0", "r1"):
        assert f'outcome="ok",replica="{replica}"' in text
    assert 'rheostat_requests_total{model="tiny-text",outcome="ok",replica="r0"}' in text


def test_a_reload_reaches_every_replica_and_nothing_else_changes_what_is_served(
    client: TestClient, handles: dict[str, Any]
) -> None:
    handles["tiny"].count = 2
    # Both stand for one application here, which refuses a second reload while one is under way:
    # the worst of the answers is the one that counts.
    assert client.post("/v1/models/tiny/reload").status_code in (200, 409)
    assert handles["tiny"].asked == ["/v1/models/tiny/reload"] * 2
    assert client.post("/v1/models/huge/reload").status_code == 404
    assert client.post("/v1/models/tiny/unload").status_code == 409


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (ActorDiedError(), 503, "not_ready"),
        (BackPressureError(num_queued_requests=9, max_queued_requests=9), 429, "overloaded"),
    ],
)
def test_what_ray_says_becomes_an_error_of_the_server(
    client: TestClient, handles: dict[str, Any], error: Exception, status: int, kind: str
) -> None:
    handles["tiny"].error = error
    answer = client.post("/v1/infer", files=IMAGES)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
    assert float(answer.headers["retry-after-ms"]) > 0


def test_a_replica_that_never_answers_ends_in_an_error_that_says_to_ask_again(
    settings: RaySettings, handles: dict[str, Any]
) -> None:
    async def forever(*_: Any) -> None:
        await asyncio.Event().wait()

    handles["tiny"] = Replicas(forever, None)
    short = settings.model_copy(update={"request_timeout_s": 0.05})
    answer = TestClient(router_app(short, INPUTS, handles)).post("/v1/infer", files=IMAGES)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "within 0.05 s (request_timeout_s)" in answer.json()["error"]["message"]


def test_other_machines_need_a_key(settings: RaySettings) -> None:
    assert RaySettings().host == "0.0.0.0"
    reachable = settings.model_copy(update={"host": "0.0.0.0"})
    with (
        pytest.raises(SettingsError, match=r"host=0\.0\.0\.0 can be reached from elsewhere"),
        TestClient(create_app(reachable)),
    ):
        pass


def test_a_body_over_the_limit_goes_to_no_model(
    settings: RaySettings, handles: dict[str, Any]
) -> None:
    small = settings.model_copy(update={"max_body_bytes": 100})
    client = TestClient(router_app(small, INPUTS, handles))
    answer = client.post("/v1/embeddings", json={"model": "tiny-text", "input": "w" * 200})
    assert answer.status_code == 413
    assert not handles["tiny-text"].asked


def test_a_replica_has_a_device_of_its_own_and_their_number_follows_the_load() -> None:
    settings = RaySettings(device="cuda", num_threads=3, max_replicas=7, target_ongoing=9)
    found = deployment("tiny", settings, Model)
    assert found.name == "model-tiny"
    assert found.ray_actor_options == {"num_cpus": 3, "num_gpus": 1}
    scaling = found._deployment_config.autoscaling_config
    assert scaling is not None
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 7)
    assert scaling.target_ongoing_requests == 9
    assert found.max_ongoing_requests == settings.max_queue
    on_cpu = deployment("tiny", RaySettings(num_threads=1), Model)
    assert on_cpu.ray_actor_options == {"num_cpus": 1, "num_gpus": 0}


def test_settings_that_no_cluster_can_meet_are_refused() -> None:
    with pytest.raises(ValueError, match="min_replicas=3 exceeds max_replicas=2"):
        RaySettings(min_replicas=3, max_replicas=2)
    with pytest.raises(ValueError, match="grpc_port=9000: replicas of one machine"):
        RaySettings(grpc_port=9000)
    with pytest.raises(ValueError, match="device=cuda:1: Ray gives every replica a device"):
        RaySettings(device="cuda:1")
