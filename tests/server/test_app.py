from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient

from models.backends.torch import TorchBackend
from server.app import create_app
from server.backends import make_backend
from server.catalog import CatalogError
from server.settings import Settings, SettingsError
from tests.server.samples import image, text_of


@pytest.mark.parametrize(
    ("method", "path", "status", "error_type"),
    [
        ("GET", "/v3/infer", 404, "unknown_path"),
        ("POST", "/v1/infer/", 404, "unknown_path"),
        ("GET", "/v1/infer", 405, "method_not_allowed"),
        ("DELETE", "/v1/models/tiny", 405, "method_not_allowed"),
        ("POST", "/metrics", 405, "method_not_allowed"),
    ],
)
def test_unknown_paths_and_methods_are_answered_in_our_shape(
    client: TestClient, method: str, path: str, status: int, error_type: str
) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    error = response.json()["error"]
    assert error["type"] == error_type
    assert error["request_id"] == response.headers["x-request-id"]
    assert ("allow" in response.headers) == (status == 405)


class LeakyBackend(TorchBackend):
    """Raises on the event loop, after the run, or on the worker, in it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_broken = False

    @property
    def name(self) -> str:
        if self.is_broken:
            raise RuntimeError("password=hunter2")
        return super().name


def test_an_internal_error_tells_the_client_nothing_and_the_log_everything(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    backend = LeakyBackend()
    monkeypatch.setattr("server.app.make_backend", lambda settings: backend)
    with TestClient(create_app(settings)) as client, caplog.at_level(logging.ERROR):
        backend.is_broken = True
        response = client.post(
            "/v1/infer", json={"image": text_of(image())}, headers={"x-request-id": "run-7"}
        )
        assert response.status_code == 500
        assert response.headers["x-request-id"] == "run-7"
        assert response.json() == {
            "error": {
                "type": "internal",
                "message": "internal error; the server's log has it under the request id",
                "field": None,
                "request_id": "run-7",
            }
        }
        assert "hunter2" in caplog.text
        assert "rheostat_queue_depth 0.0" in client.get("/metrics").text
        assert 'outcome="failed"} 1.0' in client.get("/metrics").text


def test_models_that_cannot_be_served_stop_the_app_from_being_made(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="holds no checkpoint"):
        create_app(Settings(models=tmp_path))


@pytest.mark.parametrize(
    ("device", "num_devices"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("cuda:7", 2)]
)
def test_a_device_that_is_not_there_is_refused_by_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, device: str, num_devices: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_devices)
    with pytest.raises(SettingsError, match=f"device={device}: torch sees {num_devices} CUDA"):
        create_app(Settings(models=folder, device=device))


def test_the_number_of_threads_is_set_before_anything_is_timed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    monkeypatch.setattr("server.profiles.Profiles.get", lambda *_, **__: calls.append("timing"))
    create_app(settings.model_copy(update={"num_threads": 3}))
    assert calls == [3, "timing"]


def test_onnx_runtime_answers_as_torch_does(
    text_settings: Settings,
    text_client: TestClient,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # for this process's other tests
    changes = {"backend": "onnx", "num_threads": 1, "profiles": tmp_path}
    settings = text_settings.model_copy(update=changes)
    body = {"input": ["w1 w2 w3", "w4"], "model": "tiny-text", "encoding_format": "float"}
    expected = text_client.post("/v1/embeddings", json=body).json()
    with TestClient(create_app(settings)) as client:
        for _ in range(4):  # by torch at first, then by sessions
            found = client.post("/v1/embeddings", json=body).json()
            assert found["receipt"]["backend"] == "onnx-cpu"
            for one, other in zip(found["data"], expected["data"], strict=True):
                assert one["embedding"] == pytest.approx(other["embedding"], abs=1e-4)
        text = client.get("/metrics").text
        for line in ("rheostat_backend_sessions ", "rheostat_backend_misses_total "):
            assert f"\n{line}" in text
        graphs = tmp_path / "graphs"
        deadline = time.monotonic() + 60
        while not list(graphs.glob("*.safetensors")):  # for the next start, without a request
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_back_end_that_is_not_installed_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "models.backends.onnx.backend", None)
    with pytest.raises(SettingsError, match=r"backend=onnx: .* is missing"):
        create_app(settings.model_copy(update={"backend": "onnx"}))


def test_by_default_the_processor_runs_onnx_runtime_where_it_is_installed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RHEOSTAT_BACKEND")
    chosen = settings.model_copy(update={"backend": Settings().backend, "num_threads": None})
    monkeypatch.setitem(sys.modules, "models.backends.onnx.backend", None)
    assert make_backend(chosen).name == "torch-cpu"
    monkeypatch.undo()
    pytest.importorskip("onnxscript")
    assert make_backend(chosen.model_copy(update={"num_threads": 1})).name == "onnx-cpu"
