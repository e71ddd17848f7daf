from __future__ import annotations

from importlib.metadata import version

import pytest
import torch
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from server.app import create_app
from server.errors import ModelLoadError
from server.settings import Settings
from tests.server.backends import FailingBackend
from tests.server.samples import image, text_of


def test_the_process_is_alive_before_it_is_ready_and_ready_only_while_it_runs(
    settings: Settings,
) -> None:
    client = TestClient(create_app(settings))
    assert client.get("/healthz").json() == {"alive": True}
    before = client.get("/readyz")
    assert before.status_code == 503
    assert before.json()["error"]["type"] == "not_ready"
    with client:
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert ready.json() == {"ready": True}
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/readyz"),
        ("GET", "/health"),
        ("GET", "/ping"),
        ("GET", "/v2/health/ready"),
        ("GET", "/v1/models"),
        ("POST", "/v1/infer"),
        ("POST", "/v1/embeddings"),
        ("POST", "/embed"),
        ("POST", "/v2/rerank"),
        ("POST", "/v2/models/tiny/infer"),
    ],
)
def test_a_server_that_has_not_started_says_when_to_come_back(
    settings: Settings, method: str, path: str
) -> None:
    response = TestClient(create_app(settings)).request(method, path)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.headers["retry-after-ms"] == "1000"


def test_a_server_that_drains_is_not_ready_and_still_answers(settings: Settings) -> None:
    app = create_app(settings)
    with TestClient(app) as client:
        app.state.drain()
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        assert client.post("/v1/infer", json={"image": text_of(image())}).status_code == 200


@pytest.mark.parametrize("is_before", [True, False])
def test_inference_before_the_start_or_after_the_end_is_refused(
    settings: Settings, is_before: bool
) -> None:
    client = TestClient(create_app(settings))
    if not is_before:
        with client:
            pass
    response = client.post("/v1/infer", json={"image": text_of(image())})
    assert response.status_code == 503
    assert response.json()["error"]["type"] == "not_ready"


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> FailingBackend:
    backend = FailingBackend()
    monkeypatch.setattr("server.app.make_backend", lambda settings: backend)
    return backend


def test_a_model_that_cannot_run_keeps_the_server_from_starting(
    settings: Settings, backend: FailingBackend
) -> None:
    backend.error = ValueError("broken weights")
    client = TestClient(create_app(settings))
    with pytest.raises(ModelLoadError, match="tiny cannot be served: the model failed"), client:
        pytest.fail("started")


def test_the_server_is_no_longer_ready_when_its_worker_has_died(
    settings: Settings, backend: FailingBackend
) -> None:
    with TestClient(create_app(settings)) as client:
        backend.error = SystemExit(1)
        response = client.post("/v1/infer", json={"image": text_of(image())})
        assert response.status_code == 500
        assert response.json()["error"]["type"] == "inference_failed"
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200


def test_one_failed_request_does_not_end_readiness(
    settings: Settings, backend: FailingBackend
) -> None:
    body = {"image": text_of(image())}
    with TestClient(create_app(settings)) as client:
        backend.error = ValueError("once")
        assert client.post("/v1/infer", json=body).status_code == 500
        backend.error = None
        assert client.post("/v1/infer", json=body).status_code == 200
        assert client.get("/readyz").status_code == 200


def test_metrics_follow_the_requests(settings: Settings) -> None:
    with TestClient(create_app(settings)) as client:
        file = text_of(image())
        answer = client.post("/v1/infer", json={"images": [file, file]}).json()
        client.post("/v1/infer", json={"image": "%"})
        client.post("/v1/infer", json={"image": file, "model": "huge"})
        client.post("/v1/infer", json={"image": file, "budget": {"macs": 1}})
        response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    counts = {
        (sample.labels["model"], sample.labels["outcome"]): sample.value
        for sample in families["rheostat_requests"].samples
        if sample.name.endswith("_total") and sample.value
    }
    assert counts == {
        ("tiny", "ok"): 1,
        ("tiny", "invalid"): 1,
        ("none", "invalid"): 1,
        ("tiny", "infeasible"): 1,
    }
    (flops, *_) = families["rheostat_flops_spent"].samples
    assert flops.value == answer["receipt"]["total_flops"]
    assert "rheostat_queue_depth 0.0" in response.text
    assert 'rheostat_stage_seconds_count{model="tiny",stage="total"} 1.0' in response.text
    (build,) = families["rheostat_build_info"].samples
    assert build.value == 1
    assert build.labels == {
        "version": version("rheostat"),
        "torch": torch.__version__,
        "backend": "torch",
        "device": "cpu",
    }
