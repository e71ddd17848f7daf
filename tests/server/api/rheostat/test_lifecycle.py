from __future__ import annotations

import gc
import json
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import load_file, save_file

from models import checkpoint
from models.checkpoint import MANIFEST
from models.families.slimmable import Slimmable
from search.quality.table import TABLE
from server import garbage
from server.app import create_app
from server.settings import Settings
from tests.server.samples import image, text_of
from tests.tiny import tiny_model, tiny_table, write_checkpoint, write_overflowing

ASKED = {"image": text_of(image()), "model": "tiny"}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with the tiny model, and another one under another name."""
    write_checkpoint(tmp_path / "tiny")
    write_version(tmp_path / "second", seed=7, name="second")
    return tmp_path


@pytest.fixture
def client(models: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(models=models, policy="fixed"))) as client:
        yield client


def write_version(folder: Path, seed: int, name: str = "tiny") -> None:
    """Write a checkpoint with the weights of a seed."""
    model = tiny_model(seed)
    model.name = name
    folder.mkdir(exist_ok=True)
    tiny_table(model).save(folder / TABLE, model.space)
    checkpoint.save(folder, model, "slimmable", files=[TABLE])


def probabilities(client: TestClient) -> list[float]:
    answer = client.post("/v1/infer", json=ASKED)
    assert answer.status_code == 200, answer.text
    return [
        p for task in answer.json()["outputs"][0].values() for p in task["probabilities"].values()
    ]


def change(client: TestClient, model: str, what: str) -> tuple[int, dict[str, Any]]:
    answer = client.post(f"/v1/models/{model}/{what}")
    body: dict[str, Any] = answer.json()
    return answer.status_code, body


def test_a_reload_serves_the_new_weights(client: TestClient, models: Path) -> None:
    before = probabilities(client)
    write_version(models / "tiny", seed=3)
    assert probabilities(client) == pytest.approx(before)  # not before it is asked for
    status, body = change(client, "tiny", "reload")
    assert status == 200
    assert body["version"] == checkpoint.read_manifest(models / "tiny").version
    after = probabilities(client)
    assert after != pytest.approx(before, abs=1e-3)
    write_version(models / "tiny", seed=0)
    change(client, "tiny", "reload")
    assert probabilities(client) == pytest.approx(before, abs=1e-6)


def test_a_bad_checkpoint_is_refused_and_the_old_model_goes_on(
    client: TestClient, models: Path
) -> None:
    before = probabilities(client)
    weights = models / "tiny" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    status, body = change(client, "tiny", "reload")
    assert status == 422
    assert body["error"]["type"] == "model_not_loadable"
    assert "model.safetensors" in body["error"]["message"]
    assert probabilities(client) == pytest.approx(before)
    write_version(models / "tiny", seed=0, name="other")
    status, body = change(client, "tiny", "reload")
    assert status == 422
    assert "now holds 'other', not 'tiny'" in body["error"]["message"]
    assert probabilities(client) == pytest.approx(before)


def test_a_model_that_gives_no_numbers_is_refused_and_the_old_one_goes_on(
    client: TestClient, models: Path
) -> None:
    before = probabilities(client)
    write_overflowing(models / "tiny")
    status, body = change(client, "tiny", "reload")
    assert (status, body["error"]["type"]) == (422, "model_not_loadable")
    message = body["error"]["message"]
    assert "tiny cannot be served: " in message
    assert "task 'fish': the answer is not finite; subnet {'encoder.stage1': 0.25" in message
    assert probabilities(client) == pytest.approx(before)
    assert change(client, "second", "unload")[0] == 200  # that it was refused left nothing behind


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_refused_by_name(
    client: TestClient, models: Path, value: float
) -> None:
    before = probabilities(client)
    weights = models / "tiny" / "model.safetensors"
    state = load_file(weights)
    state["stem.weight"][0, 0, 0, 0] = value
    save_file(state, weights)
    checkpoint.cover(models / "tiny", weights.name)
    status, body = change(client, "tiny", "reload")
    assert (status, body["error"]["type"]) == (422, "model_not_loadable")
    assert "tensor 'stem.weight' holds a value that is not finite" in body["error"]["message"]
    assert probabilities(client) == pytest.approx(before)


@pytest.mark.parametrize("channels", [[32, 10**9], [32, 1e9], [10**30, 32], [32, -8], "x", None])
def test_a_size_that_cannot_be_is_refused(client: TestClient, models: Path, channels: Any) -> None:
    path = models / "tiny" / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["config"]["channels"] = channels
    path.write_text(json.dumps(manifest))
    status, body = change(client, "tiny", "reload")
    assert (status, body["error"]["type"]) == (422, "model_not_loadable")
    assert str(models / "tiny") in body["error"]["message"]


def test_models_are_unloaded_and_loaded(client: TestClient) -> None:
    assert change(client, "second", "load")[0] == 409
    assert change(client, "second", "unload") == (200, {"model": "second", "version": None})
    assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["tiny"]
    assert client.post("/v1/infer", json={**ASKED, "model": "second"}).status_code == 404
    listed = client.get("/v1/checkpoints").json()["checkpoints"]
    assert {one["model"]: one["served_version"] is not None for one in listed} == {
        "tiny": True,
        "second": False,
    }
    assert change(client, "second", "load")[0] == 200
    assert client.post("/v1/infer", json={**ASKED, "model": "second"}).status_code == 200


def test_the_last_model_stays(client: TestClient) -> None:
    change(client, "second", "unload")
    status, body = change(client, "tiny", "unload")
    assert status == 409
    assert "the last one" in body["error"]["message"]


@pytest.mark.parametrize("what", ["load", "reload", "unload"])
def test_a_model_that_is_nowhere_is_not_found(client: TestClient, what: str) -> None:
    status, body = change(client, "nope", what)
    assert status == 404
    assert body["error"]["type"] == "unknown_model"


def test_a_folder_that_cannot_be_read_is_not_listed(client: TestClient, models: Path) -> None:
    (models / "broken").mkdir()
    (models / "broken" / MANIFEST).write_text("{")
    listed = client.get("/v1/checkpoints").json()["checkpoints"]
    assert [one["model"] for one in listed] == ["second", "tiny"]


def test_the_cache_does_not_answer_for_a_model_that_has_gone(models: Path) -> None:
    settings = Settings(models=models, policy="fixed", max_cache_bytes=10**6)
    with TestClient(create_app(settings)) as client:
        before = probabilities(client)
        for seed in (3, 4, 5):
            write_version(models / "tiny", seed)
            change(client, "tiny", "reload")
            assert probabilities(client) != pytest.approx(before, abs=1e-3)
            before = probabilities(client)


@pytest.mark.parametrize("is_settled", [False, True])
def test_the_old_weights_are_freed_at_once(
    client: TestClient, models: Path, is_settled: bool
) -> None:
    probabilities(client)
    gc.unfreeze()  # what tests of other files have left
    gc.collect()
    old = [weakref.ref(m) for m in gc.get_objects() if type(m) is Slimmable]
    gc.disable()
    try:
        if is_settled:
            garbage.settle()
        write_version(models / "tiny", seed=3)
        change(client, "tiny", "reload")
        probabilities(client)
        assert sum(one() is None for one in old) == 1
        assert bool(gc.get_freeze_count()) == is_settled
    finally:
        gc.unfreeze()
        gc.enable()


def test_no_request_fails_while_models_are_reloaded(client: TestClient, models: Path) -> None:
    expected = []
    for seed in (0, 3):
        write_version(models / "tiny", seed)
        change(client, "tiny", "reload")
        expected.append(torch.tensor(probabilities(client)))
    found: list[list[float] | Exception] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            try:
                found.append(probabilities(client))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a failure
                found.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for seed in (0, 3, 0, 3, 0):
        write_version(models / "tiny", seed)
        assert change(client, "tiny", "reload")[0] == 200
    is_over.set()
    for thread in threads:
        thread.join()
    assert not [one for one in found if isinstance(one, Exception)]
    # The whole old model or the whole new one, never a mixture.
    for one in found:
        assert any(torch.allclose(torch.tensor(one), other, atol=1e-5) for other in expected)
