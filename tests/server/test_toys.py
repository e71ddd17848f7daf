"""Models of several inputs, of maps and of weights built on demand are served like any other."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from models.backends.torch import TorchBackend
from models.space import Subnet
from models.variants import build
from search.budget import Budget
from search.floors import Floors
from search.terms import Terms
from search.timing.profile import LatencyProfile
from server import catalog
from server.app import create_app
from server.profiles import Profiles
from server.served import Served
from server.settings import Settings
from tests.conformance.fixtures.toys import TOYS
from tests.server.samples import image, text_of
from tests.server.toys import toy_families, write_toy

BUILDS = "rheostat_variants_builds_total"
FEATURES = [0.1, -0.4, 0.2, 0.9, -0.3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("toys")
    with toy_families():
        for name in TOYS:
            write_toy(folder / name, name)
        yield folder


@pytest.fixture(scope="module")
def models(folder: Path) -> dict[str, Served]:
    return dict(catalog.load(folder))


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    settings = Settings(models=folder, policy="fixed", max_cache_bytes=1_000_000)
    with TestClient(create_app(settings)) as client:
        yield client


def infer(client: TestClient, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/infer", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def refused(client: TestClient, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/infer", json=body)
    assert response.status_code == 422, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def alone(
    served: Served, subnet: dict[str, Any], values: dict[str, Any], tasks: list[str]
) -> dict[str, torch.Tensor]:
    """Return what a subnet gives for one item without the server."""
    item = served.inputs.item(values)
    model = build(served.elastic, tuple(subnet[n] for n in ("bits",) if n in subnet))
    plan = model.plan(Subnet(subnet), served.inputs.shapes(item), tasks)
    batch = served.inputs.batch([item])
    return {task: value[0] for task, value in TorchBackend().run(plan, batch).items()}


def test_an_image_with_and_without_its_text_is_answered_by_the_models_own_subnets(
    client: TestClient, models: dict[str, Served]
) -> None:
    served, png = models["two_towers"], image(1, 12, 8)
    for values in ({"image": text_of(png)}, {"image": text_of(png), "text": "w1 w2 w3"}):
        answer = infer(client, inputs=values, model="two_towers", budget={"fraction": 0.8})
        receipt = answer["receipt"]
        assert receipt["subnet"]["inputs"] == "+".join(values)
        assert receipt["fraction"] <= 0.8
        decoded = {"image": served.inputs["image"].type.decode(_encoded(png))}
        if "text" in values:
            decoded["text"] = served.model._text.encode("w1 w2 w3")
        tasks = ["animal", "colour", "vector"]
        found = alone(served, receipt["subnet"], decoded, tasks)
        (output,) = answer["outputs"]
        expected = found["animal"].softmax(-1)
        assert list(output["animal"]["probabilities"].values()) == pytest.approx(
            expected.tolist(), abs=1e-5
        )
        assert output["vector"]["embedding"] == pytest.approx(found["vector"].tolist(), abs=1e-5)


def _encoded(data: bytes) -> Any:
    from models.inputs.content import Encoded

    return Encoded(data)


def test_the_model_is_found_by_its_inputs_where_none_is_named(client: TestClient) -> None:
    answer = infer(client, inputs={"features": FEATURES}, budget={"fraction": 0.5})
    assert answer["receipt"]["model"] == "bits"
    pair = {"context": [[0.0] * 6] * 3, "candidate": [[1.0] * 6] * 2}
    assert infer(client, inputs=pair)["receipt"]["model"] == "context_once"


def test_what_many_items_share_is_computed_and_paid_for_once(
    client: TestClient, models: dict[str, Served]
) -> None:
    rng = np.random.default_rng(0)
    context = rng.normal(size=(12, 6)).round(3).tolist()
    candidates = [rng.normal(size=(1 + i % 4, 6)).round(3).tolist() for i in range(20)]
    items = [{"context": context, "candidate": one} for one in candidates]
    answer = infer(client, inputs=items, model="context_once", budget={"fraction": 1.0})
    receipt = answer["receipt"]
    assert len(answer["outputs"]) == 20
    served = models["context_once"]
    for item, output in zip(items, answer["outputs"], strict=True):
        values = {name: torch.tensor(numbers) for name, numbers in item.items()}
        found = alone(served, receipt["subnet"], values, ["relevance"])
        assert output["relevance"]["score"] == pytest.approx(float(found["relevance"]), abs=1e-5)
    assert receipt["total_flops"] < 0.6 * 20 * receipt["flops"]
    again = infer(
        client,
        inputs=[{"context": context, "candidate": [[0.5] * 6]}],
        model="context_once",
        budget={"fraction": 1.0},
    )
    # The context was kept: of this item only the candidate's own steps run.
    assert again["receipt"]["shared_flops"] > 0.4 * again["receipt"]["total_flops"]


@pytest.mark.parametrize(
    ("inputs", "field", "message"),
    [
        ({"text": "w1"}, "inputs", "input 'image' is required"),
        ({"image": "x", "sound": "y"}, "inputs.sound", "input 'sound' is not known"),
        ({"image": 7}, "inputs.image", "must be base64 text"),
        ({"image": "AAAA", "text": {"txt": "w1", "text": "w"}}, "inputs.text.txt", "permitted"),
        ({"image": "AAAA", "text": [1.5]}, "inputs.text", "a text or a list of token ids"),
        ([{"image": "AAAA"}, {"image": "AAAA", "text": "w1"}], "inputs[1]", "must have the same"),
        ([], "inputs", ""),
    ],
)
def test_wrong_inputs_are_refused_by_their_place(
    client: TestClient, inputs: Any, field: str, message: str
) -> None:
    error = refused(client, inputs=inputs, model="two_towers")
    assert error["field"].startswith(field)
    assert message in error["message"]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([1.0] * 4, "must end with [5]"),
        ([1.0, 2.0, 3.0, 4.0, "x"], "nested lists of numbers"),
        ([1.0, 2.0, 3.0, 4.0, True], "nested lists of numbers"),
        ([[1.0], [2.0, 3.0]], "nested lists of numbers"),
        ("1,2,3", "nested lists of numbers"),
        ([1e39] * 5, "not finite"),
    ],
)
def test_numbers_that_are_none_are_refused(client: TestClient, features: Any, message: str) -> None:
    error = refused(client, inputs={"features": features}, model="bits")
    assert error["field"] == "inputs.features"
    assert message in error["message"]


def test_inputs_and_images_are_not_both_taken(client: TestClient) -> None:
    error = refused(client, inputs={"image": "AAAA"}, image="AAAA", model="two_towers")
    assert (error["field"], "both" in error["message"]) == ("inputs", True)


def test_maps_come_as_pictures_and_numbers(client: TestClient, models: dict[str, Served]) -> None:
    png = text_of(image(2, 12, 8))
    answer = infer(client, inputs={"image": png}, model="maps")
    parts, depth = answer["outputs"][0]["parts"], answer["outputs"][0]["depth"]
    classes = np.array(Image.open(io.BytesIO(base64.b64decode(parts["png"]))))
    assert classes.shape == (parts["height"], parts["width"]) == (8, 12)
    assert parts["labels"] == ["sky", "sea", "land"]
    values = np.frombuffer(base64.b64decode(depth["values"]), "<f4").reshape(1, 8, 12)
    assert (depth["channels"], depth["unit"]) == (["distance"], "m")
    served = models["maps"]
    decoded = served.inputs["image"].type.decode(_encoded(image(2, 12, 8)))
    found = alone(served, answer["receipt"]["subnet"], {"image": decoded}, ["parts", "depth"])
    np.testing.assert_array_equal(classes, found["parts"].argmax(0).numpy())
    np.testing.assert_allclose(values, found["depth"].numpy(), atol=1e-5)
    tasks = answer["receipt"]["tasks"]
    assert tasks["depth"]["metric"] == "rmse"
    assert tasks["depth"]["retention"] == 1


def test_a_map_is_a_picture_for_who_asks_for_one(client: TestClient) -> None:
    body = {"inputs": {"image": text_of(image(2, 12, 8))}, "model": "maps", "tasks": ["parts"]}
    response = client.post("/v1/infer", json=body, headers={"accept": "image/png"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    assert "x-rheostat-subnet" in response.headers
    assert Image.open(io.BytesIO(response.content)).size == (12, 8)
    body["tasks"] = ["parts", "depth"]
    response = client.post("/v1/infer", json=body, headers={"accept": "image/png"})
    assert response.status_code == 422


def test_a_smaller_error_keeps_more_and_a_floor_counts_it_so(client: TestClient) -> None:
    body = {"model": "maps", "tasks": ["depth"]}
    png = text_of(image(2, 12, 8))
    cheap = infer(client, inputs={"image": png}, budget={"min_quality": 0.9}, **body)["receipt"]
    assert 0.9 <= cheap["quality"] < 1
    assert cheap["tasks"]["depth"]["retention"] == pytest.approx(
        0.4 / cheap["tasks"]["depth"]["expected"], rel=1e-6
    )


def test_kserve_names_the_tensors_of_each_input_and_shares_single_rows(
    client: TestClient,
) -> None:
    metadata = client.get("/v2/models/context_once").json()
    assert {one["name"]: one["shape"] for one in metadata["inputs"]} == {
        "context": [-1, -1, 6],
        "candidate": [-1, -1, 6],
    }
    assert metadata["outputs"] == [{"name": "relevance", "datatype": "FP32", "shape": [-1]}]
    context, candidates = np.ones((1, 3, 6)), np.arange(24.0).reshape(4, 1, 6) / 24
    request = {
        "inputs": [
            {"name": n, "shape": list(a.shape), "datatype": "FP32", "data": a.ravel().tolist()}
            for n, a in (("context", context), ("candidate", candidates))
        ]
    }
    answer = client.post("/v2/models/context_once/infer", json=request).json()
    (output,) = answer["outputs"]
    items = [{"context": context[0].tolist(), "candidate": one.tolist()} for one in candidates]
    expected = infer(client, inputs=items, model="context_once")["outputs"]
    assert output["data"] == pytest.approx([o["relevance"]["score"] for o in expected], abs=1e-5)
    maps = client.get("/v2/models/maps").json()["outputs"]
    assert [one["shape"] for one in maps] == [[-1, 3, -1, -1], [-1, 1, -1, -1]]


@pytest.fixture
def even_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step takes as long as every other, so that no weights are built ahead for their speed.

    Measured times of a model this small are noise: in one run of many, weights of fewer bits look
    faster.
    """

    def even(_: Profiles, served: Served, progress: object = None) -> LatencyProfile:
        curves = dict.fromkeys(served.finders.functions, 0)
        return LatencyProfile(curves, (1,), (0,), np.full((1, 1, 1), 1e-5))

    monkeypatch.setattr(Profiles, "get", even)


@pytest.fixture
def bits(folder: Path, even_times: None) -> Iterator[TestClient]:
    """A server on which nothing has been built yet."""
    with TestClient(
        create_app(Settings(models=folder / "bits", backend="torch", policy="fixed"))
    ) as client:
        yield client


def builds(client: TestClient) -> float:
    (line,) = (x for x in client.get("/metrics").text.splitlines() if x.startswith(BUILDS))
    return float(line.split()[-1])


def test_weights_of_a_load_axis_are_built_once_for_requests_that_have_the_time(
    bits: TestClient, models: dict[str, Served]
) -> None:
    assert infer(bits, inputs={"features": FEATURES})["receipt"]["subnet"]["bits"] == 32
    assert builds(bits) == 0
    for _ in range(3):
        answer = infer(bits, inputs={"features": FEATURES}, budget={"fraction": 0.5})
        subnet = answer["receipt"]["subnet"]
        assert subnet == {"bits": 5, "width": 8}
        found = alone(models["bits"], subnet, {"features": torch.tensor(FEATURES)}, ["kind"])
        probabilities = list(answer["outputs"][0]["kind"]["probabilities"].values())
        assert probabilities == pytest.approx(found["kind"].softmax(-1).tolist(), abs=1e-6)
    assert builds(bits) == 1


def test_who_has_no_time_for_a_build_gets_what_is_there_and_the_next_what_was_built(
    bits: TestClient,
) -> None:
    body = {"inputs": {"features": FEATURES}, "budget": {"fraction": 0.5, "latency_ms": 500}}
    assert infer(bits, **body)["receipt"]["subnet"]["bits"] == 32
    give_up = time.monotonic() + 20
    while infer(bits, **body)["receipt"]["subnet"]["bits"] != 5:
        assert time.monotonic() < give_up
    assert builds(bits) == 1


def test_a_surer_promise_may_be_kept_by_weights_that_are_not_loaded(folder: Path) -> None:
    served = catalog.load_one(folder / "bits")
    budget = Budget(fraction=0.5, min_quality=0.98)
    for floors in (None, Floors(1.28)):
        found = served.finder.find(budget=budget, terms=Terms(floors=floors))
        assert found.subnet["bits"] == 5


def test_what_only_a_build_could_answer_in_time_is_refused_until_it_is_done(
    bits: TestClient,
) -> None:
    budget = {"min_quality": 0.98, "fraction": 0.5, "latency_ms": 500}
    body = {"inputs": {"features": FEATURES}, "budget": budget}
    response = bits.post("/v1/infer", json=body)
    assert response.status_code == 429, response.text
    assert "whose weights are not built" in response.json()["error"]["message"]
    assert float(response.headers["retry-after-ms"]) == pytest.approx(1000, rel=0.5)
    give_up = time.monotonic() + 20
    while (response := bits.post("/v1/infer", json=body)).status_code != 200:
        assert time.monotonic() < give_up
    assert response.json()["receipt"]["subnet"]["bits"] == 5


def test_a_variant_that_is_larger_than_its_room_is_not_kept(folder: Path, even_times: None) -> None:
    settings = Settings(
        models=folder / "bits", backend="torch", policy="fixed", max_variant_bytes=100
    )
    with TestClient(create_app(settings)) as client:
        body = {"inputs": {"features": FEATURES}, "budget": {"fraction": 0.5}}
        response = client.post("/v1/infer", json=body)
        assert response.status_code == 503
        assert "max_variant_bytes" in response.json()["error"]["message"]
        # From now on the search knows better.
        assert infer(client, **body)["receipt"]["subnet"]["bits"] == 32


def test_variants_make_room_for_others(folder: Path, even_times: None) -> None:
    # Of the hidden layer: 16 rows of 5 weights and a bias, 384 bytes for each variant.
    settings = Settings(
        models=folder / "bits", backend="torch", policy="fixed", max_variant_bytes=500
    )
    app = create_app(settings)
    with TestClient(app) as client:
        body: dict[str, Any] = {"inputs": {"features": FEATURES}, "model": "bits"}
        infer(client, **body, budget={"fraction": 0.5})
        text = client.get("/metrics").text
        assert "rheostat_variants_resident 1.0" in text
        assert "rheostat_variants_bytes 384.0" in text


def test_of_variants_that_are_on_no_front_the_one_asked_for_last_stays(
    folder: Path, even_times: None
) -> None:
    app = create_app(Settings(models=folder / "bits", backend="torch", policy="fixed"))
    with TestClient(app) as client:
        assert client.portal is not None
        served = app.state.service.catalog.choose("bits")
        variants = app.state.service.variants

        def resident(*built: int) -> list[int]:
            for bits in built:
                client.portal.call(variants.build, served, (bits,))  # type: ignore[union-attr]
            return sorted(bits for (bits,) in variants.resident(served))

        variants.prefer(served, [(32,), (5,)])
        assert resident(3, 5) == [3, 5, 32]
        variants.prefer(served, [(32,)])
        assert resident(5) == [3, 5, 32]
        client.portal.call(variants.forget, served)
        variants.prefer(served, [(32,)])
        assert resident(5, 3) == [3, 32]
        assert resident(5) == [5, 32]
        assert infer(client, inputs={"features": FEATURES}, budget={"fraction": 0.5})
