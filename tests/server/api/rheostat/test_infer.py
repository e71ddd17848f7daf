from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

import httpx
import pytest
import torch
from fastapi.testclient import TestClient

from models.core import plan_cost
from models.space import Subnet
from server.app import create_app
from server.served import Served
from server.settings import Settings
from tests.server.backends import HeldBackend
from tests.server.samples import Connection, Probabilities, direct, form, image, run, text_of
from tests.tiny import TASKS

FILE = 'name="image"; filename="a.png"'
MULTIPART = {"content-type": "multipart/form-data; boundary=edge"}


def infer(client: TestClient, **body: object) -> dict[str, Any]:
    response = client.post("/v1/infer", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def probabilities(output: dict[str, Any]) -> Probabilities:
    return {task: answer["probabilities"] for task, answer in output.items()}


def assert_answers_equal_a_direct_run(
    served: Served, answer: dict[str, Any], files: list[bytes]
) -> None:
    receipt = answer["receipt"]
    assert len(answer["outputs"]) == len(files)
    for file, output in zip(files, answer["outputs"], strict=True):
        expected = direct(served, file, receipt["subnet"], list(receipt["tasks"]))
        found = probabilities(output)
        assert found.keys() == expected.keys()
        for task, by_label in expected.items():
            assert found[task] == pytest.approx(by_label, abs=1e-5)
            assert sum(found[task].values()) == pytest.approx(1, abs=1e-5)
            assert output[task]["label"] == max(found[task], key=found[task].__getitem__)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"budget": {"fraction": 0.1}},
        {"tasks": ["people"], "budget": {"fraction": 0.5}},
        {"tasks": ["people", "fish"], "preferences": {"fish": 9, "people": 1}},
        {"budget": {"min_quality": 0.9}},
        {"model": "tiny", "preferences": {"flowers": 1}, "budget": {"macs": 1e6, "flops": 9e5}},
    ],
)
def test_probabilities_are_those_of_the_subnet_in_the_receipt(
    client: TestClient, served: Served, body: dict[str, Any]
) -> None:
    files = [image(1), image(2, 50, 20, "JPEG")]
    one = infer(client, image=text_of(files[0]), **body)
    assert_answers_equal_a_direct_run(served, one, files[:1])
    several = infer(client, images=[text_of(file) for file in files], **body)
    assert_answers_equal_a_direct_run(served, several, files)


def test_every_way_to_send_an_image_gives_the_same_answer(client: TestClient) -> None:
    file, asked = image(3), {"tasks": ["fish"], "budget": {"fraction": 0.4}}
    expected = infer(client, image=text_of(file), **asked)["outputs"]
    url = f"data:image/png;base64,{text_of(file)}"
    assert infer(client, image=url, **asked)["outputs"] == expected
    assert infer(client, images=[url], **asked)["outputs"] == expected
    question = ('name="request"', json.dumps(asked).encode())
    as_file = ('name="request"; filename="q.json"', json.dumps(asked).encode())
    for parts in ([(FILE, file), question], [question, (FILE, file)], [(FILE, file), as_file]):
        response = client.post("/v1/infer", content=form(*parts), headers=MULTIPART)
        assert response.status_code == 200, response.text
        assert response.json()["outputs"] == expected


def test_a_form_may_hold_many_images_and_no_request(client: TestClient, served: Served) -> None:
    files = [image(1), image(2, 40, 16, "WEBP"), image(3, 16, 90, "JPEG"), image(4)]
    request = ('name="request"; filename="q.json"', b"{}")
    for parts in ([], [request]):
        body = form(*((FILE, file) for file in files), *parts)
        response = client.post("/v1/infer", content=body, headers=MULTIPART)
        assert response.status_code == 200, response.text
        assert_answers_equal_a_direct_run(served, response.json(), files)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 500), (500, 3), (64, 64), (17, 16)])
def test_an_image_of_any_size_is_resized(
    client: TestClient, served: Served, width: int, height: int
) -> None:
    file = image(5, width, height)
    assert_answers_equal_a_direct_run(served, infer(client, image=text_of(file)), [file])


def test_the_receipt_says_what_ran_and_what_it_cost(client: TestClient, served: Served) -> None:
    files = [text_of(image(seed)) for seed in range(3)]
    asked = {"tasks": ["people", "fish"], "preferences": {"fish": 3, "people": 1}}
    receipt = infer(client, images=files, budget={"fraction": 0.5}, **asked)["receipt"]
    space = served.elastic.space.select({None, "fish", "people"})
    tasks, shape = ["fish", "people"], {"image": served.model.config.input.shape}
    subnet = space.check(receipt["subnet"])  # these axes, no others
    macs = plan_cost(served.elastic.plan(subnet, shape, tasks)).macs
    largest = plan_cost(served.elastic.plan(space.largest, shape, tasks)).macs
    assert (receipt["model"], receipt["version"], receipt["backend"]) == ("tiny", "1", "torch-cpu")
    assert receipt["macs"] == macs
    assert receipt["flops"] == 2 * macs
    assert receipt["total_flops"] == 3 * 2 * macs
    assert receipt["fraction"] == pytest.approx(macs / largest)
    assert receipt["fraction"] <= 0.5
    assert receipt["preferences"] == {"fish": 0.75, "people": 0.25}
    assert receipt["batch_sizes"] == [3, 3, 3]
    assert list(receipt["tasks"]) == tasks
    choices = {task: served.table.cells[task].value[-1, -1] for task in tasks}
    for task, entry in receipt["tasks"].items():
        assert (entry["metric"], entry["n"], entry["measured"]) == ("accuracy", 250, True)
        assert entry["stderr"] == pytest.approx(0.025)
        assert entry["retention"] == pytest.approx(entry["score"] / choices[task])
    kept = {task: entry["retention"] for task, entry in receipt["tasks"].items()}
    assert receipt["quality"] == pytest.approx(0.75 * kept["fish"] + 0.25 * kept["people"])


def test_the_receipt_says_where_the_time_went(client: TestClient) -> None:
    spent = infer(client, image=text_of(image()))["receipt"]["milliseconds"]
    assert list(spent) == ["decode", "search", "queue", "run", "total", "predicted"]
    assert all(value >= 0 for value in spent.values())
    stages = ("decode", "search", "queue", "run")
    assert sum(spent[stage] for stage in stages) <= spent["total"]


def test_a_plan_is_what_would_run(client: TestClient) -> None:
    asked = {"tasks": ["fish"], "budget": {"fraction": 0.3}}
    planned = client.post("/v1/plan", json=asked).json()["receipt"]
    ran = infer(client, image=text_of(image()), **asked)["receipt"]
    # Runs correct what runs are predicted to take, and others ran in between.
    assert 0 < planned.pop("predicted_run_ms") < 1000
    assert 0 < ran["predicted_run_ms"] < 1000
    assert planned == {name: ran[name] for name in planned}


def random_question(rng: Random, largest_macs: int) -> dict[str, Any]:
    tasks = rng.sample(list(TASKS), rng.randint(1, 3))
    weights = {task: rng.choice([0.0, 1.0, rng.random(), 1e-9, 1e9]) for task in tasks}
    macs = rng.uniform(0.01, 1.05) * largest_macs
    limits = {"macs": macs, "flops": rng.uniform(1, 3) * macs, "fraction": rng.uniform(0.02, 1)}
    question: dict[str, Any] = {
        "tasks": tasks,
        "budget": dict(rng.sample(list(limits.items()), rng.randint(1, 3))),
    }
    if any(weights.values()):
        question["preferences"] = weights
    return question


def test_no_plan_exceeds_its_budget(client: TestClient, served: Served) -> None:
    rng, num_planned, model = Random(0), 0, served.elastic
    largest = plan_cost(
        model.plan(model.space.largest, {"image": served.model.config.input.shape})
    ).macs
    for _ in range(400):
        question = random_question(rng, largest)
        budget, tasks = question["budget"], question["tasks"]
        response = client.post("/v1/plan", json=question)
        if response.status_code == 422:
            error = response.json()["error"]
            assert error["type"] == "infeasible_budget"
            assert error["feasible"] > budget[error["field"].removeprefix("budget.")]
            continue
        assert response.status_code == 200, response.text
        receipt = response.json()["receipt"]
        plan = model.plan(
            Subnet(receipt["subnet"]), {"image": served.model.config.input.shape}, tasks
        )
        whole = model.space.select({None, *tasks}).largest
        macs = plan_cost(plan).macs
        assert macs == receipt["macs"] <= budget.get("macs", largest)
        assert 2 * macs <= budget.get("flops", 2 * largest)
        of = plan_cost(model.plan(whole, {"image": served.model.config.input.shape}, tasks)).macs
        assert macs / of <= budget.get("fraction", 1)
        num_planned += 1
    assert num_planned > 200


def test_concurrent_requests_for_different_subnets_do_not_disturb_each_other(
    settings: Settings, served: Served
) -> None:
    async def scenario() -> None:
        app, rng = create_app(settings), Random(1)
        files = [image(seed) for seed in range(48)]
        bodies = [
            {
                "image": text_of(file),
                "tasks": rng.sample(list(TASKS), rng.randint(1, 3)),
                "budget": {"fraction": rng.choice([0.2, 0.4, 0.6, 1.0])},
            }
            for file in files
        ]
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            responses = await asyncio.gather(
                *(client.post("/v1/infer", json=body) for body in bodies)
            )
        answers = [response.json() for response in responses]
        for file, answer in zip(files, answers, strict=True):
            assert_answers_equal_a_direct_run(served, answer, [file])
        assert len({str(answer["receipt"]["subnet"]) for answer in answers}) >= 10

    run(scenario())


def test_a_client_that_leaves_is_counted_and_its_room_given_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = HeldBackend()
    monkeypatch.setattr("server.app.make_backend", lambda settings: backend)

    async def scenario() -> None:
        app = create_app(settings)
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            backend.hold()
            connection = Connection("/v1/infer", {"content-type": "application/json"})
            connection.body(json.dumps({"image": text_of(image())}).encode())
            serving = asyncio.create_task(connection.serve(app))
            await backend.until_held()
            before = (await client.get("/metrics")).text
            assert "rheostat_queue_depth 1.0" in before
            connection.leave()
            await serving
            assert connection.status == 499
            after = (await client.get("/metrics")).text
            assert "rheostat_queue_depth 0.0" in after
            assert 'rheostat_requests_total{model="tiny",outcome="cancelled"} 1.0' in after
            backend.release()
            answer = await client.post("/v1/infer", json={"image": text_of(image())})
            assert answer.status_code == 200

    run(scenario())


def test_answers_do_not_depend_on_the_batch(client: TestClient) -> None:
    files = [text_of(image(seed)) for seed in range(4)]
    together = infer(client, images=files)["outputs"]
    for file, output in zip(files, together, strict=True):
        (alone,) = infer(client, image=file)["outputs"]
        for task, by_label in probabilities(alone).items():
            found = torch.tensor(list(probabilities(output)[task].values()))
            expected = torch.tensor(list(by_label.values()))
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
