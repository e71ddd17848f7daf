"""The server on a Ray cluster of three nodes on this machine; see `bench/ray_cluster.py`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

pytest.importorskip("ray.serve", reason="needs the extra ray", exc_type=ImportError)

from ray import serve

from bench.ray_cluster import Nodes, cluster
from bench.ray_kill import Outcomes, load
from bench.sleeping import Sleeping, SleepingSettings
from deploy.ray_settings import RaySettings
from rheostat import AsyncClient, Client, Retries
from server.app import create_app
from tests.server.samples import image
from tests.tiny import write_checkpoint
from tests.tiny_text import write_text_checkpoint

pytestmark = [
    pytest.mark.system,
    # Ray leaves sockets and loops to the end of the process.
    pytest.mark.filterwarnings("ignore"),
]

TEXTS = [f"w{i} w{i + 1} w2" for i in range(16)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with cluster(2) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> RaySettings:
    folder = tmp_path_factory.mktemp("models")
    write_checkpoint(folder / "tiny")
    write_text_checkpoint(folder / "tiny-text")
    return RaySettings(models=folder, **_around(tmp_path_factory.mktemp("scratch")))


@pytest.fixture(scope="module")
def text_settings(settings: RaySettings) -> RaySettings:
    """One model alone, on both nodes."""
    only = settings.models_folder / "tiny-text"
    return settings.model_copy(update={"models": only, "min_replicas": 2, "max_replicas": 2})


def _around(scratch: Path) -> dict[str, Any]:
    return {
        "profiles": scratch,
        "database": f"sqlite:///{scratch / 'clients.db'}",
        "host": "127.0.0.1",
        "policy": "fixed",
        "max_wait_ms": 1e9,
    }


def test_answers_through_ray_are_those_of_the_server_alone(
    nodes: Nodes, settings: RaySettings
) -> None:
    nodes.deploy(settings)
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/v1/models", {}),
        ("GET", "/v1/models/tiny", {}),
        ("GET", "/readyz", {}),
        ("POST", "/v1/plan", {"json": {"model": "tiny", "budget": {"fraction": 0.5}}}),
        ("POST", "/v1/infer", {"files": [("image", ("a.png", image(), "image/png"))]}),
        ("POST", "/v1/embeddings", {"json": {"model": "tiny-text", "input": TEXTS}}),
        ("POST", "/v1/embeddings", {"json": {"model": "tiny-text", "input": ""}}),
        ("POST", "/v1/embeddings", {"json": {"model": "huge", "input": "w1"}}),
        ("POST", "/v1/rerank", {"json": {"query": "w1", "documents": TEXTS, "top_n": 3}}),
        ("POST", "/v1/infer", {"content": b"{", "headers": {"content-type": "application/json"}}),
        ("GET", "/nothing", {}),
    ]
    with TestClient(create_app(settings)) as alone, httpx.Client(base_url=nodes.url) as through:
        for method, path, content in requests:
            expected = alone.request(method, path, **content)
            found = through.request(method, path, timeout=30, **content)
            assert found.status_code == expected.status_code, (path, found.text)
            assert _steady(found.json()) == _near(_steady(expected.json())), path
            assert "x-request-id" in found.headers
            assert found.headers.get("x-rheostat-subnet") == expected.headers.get(
                "x-rheostat-subnet"
            )


def test_whatever_a_killed_replica_had_is_answered_or_refused_and_with_retries_answered(
    nodes: Nodes, text_settings: RaySettings
) -> None:
    nodes.deploy(text_settings)
    expected = asyncio.run(_expected(nodes.url))
    off = _under_load(nodes, Retries(most=0), expected, nodes.kill_replica)
    assert off.counts["answered"] + off.counts["clear 5xx"] == off.counts.total(), off
    _until_all_are_back(nodes)
    on = _under_load(nodes, Retries(most=100, first_s=0.2), expected, nodes.kill_replica)
    assert on.counts["answered"] == on.counts.total() > 0, on
    assert off.kills == on.kills == 1


def test_whatever_a_killed_node_had_is_answered_or_refused(
    nodes: Nodes, text_settings: RaySettings
) -> None:
    nodes.deploy(text_settings)
    _until_all_are_back(nodes)
    expected = asyncio.run(_expected(nodes.url))
    try:
        found = _under_load(nodes, Retries(most=0), expected, nodes.kill_node)
    finally:
        nodes.add_node()
    _until_all_are_back(nodes)
    assert found.counts["answered"] > 0
    assert found.counts["answered"] + found.counts["clear 5xx"] == found.counts.total(), found


def test_load_brings_a_second_replica_and_twice_the_answers_and_the_end_waits_for_them(
    nodes: Nodes, text_settings: RaySettings
) -> None:
    shared = text_settings.model_dump() | {"max_batch_size": 4, "min_replicas": 1}
    # A batch of four takes 0.8 s.
    own = SleepingSettings(**shared, alone_s=0.6, more_s=0.05)
    nodes.deploy(own.model_copy(update={"max_replicas": 1}), Sleeping)
    alone = _rate(nodes, seconds=8.0)
    assert alone == pytest.approx(5, rel=0.25)
    nodes.deploy(own.model_copy(update={"target_ongoing": 4.0, "upscale_delay_s": 0.0}), Sleeping)
    give_up = time.monotonic() + 120
    while len(nodes.replicas()) < 2:
        assert time.monotonic() < give_up, "16 requests under way brought no second replica"
        _rate(nodes, seconds=2.0)
    _until_all_are_back(nodes)
    assert _rate(nodes, seconds=8.0) / alone == pytest.approx(2, rel=0.25)
    with ThreadPoolExecutor(8) as threads, Client(nodes.url, retries=Retries(most=0)) as client:
        answers = [threads.submit(client.embed, text) for text in TEXTS[:8]]
        time.sleep(0.3)  # until they are with the replicas, which take 0.6 s at least
        serve.delete("default")
        assert all(len(one.result().vectors) == 1 for one in answers)


async def _expected(url: str) -> dict[str, Any]:
    async with AsyncClient(url) as client:
        return {text: (await client.embed(text)).vectors[0] for text in TEXTS}


def _under_load(
    nodes: Nodes, retries: Retries, expected: dict[str, Any], kill: Callable[[], object]
) -> Outcomes:
    async def killed(found: Outcomes) -> None:
        await asyncio.sleep(1.0)
        await asyncio.to_thread(kill)
        found.kills += 1

    return asyncio.run(load(nodes.url, retries, expected, 5.0, killed))


def _until_all_are_back(nodes: Nodes, count: int = 2) -> None:
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up:
        if nodes.num_running() == count:
            return
        time.sleep(0.2)
    raise TimeoutError(f"not all replicas came back: {serve.status()}")


def _rate(nodes: Nodes, seconds: float) -> float:
    """Return answers per second, with as many requests under way as four batches hold."""

    async def run() -> float:
        count, start = 0, time.perf_counter()

        async def ask(client: AsyncClient, number: int) -> None:
            nonlocal count
            while time.perf_counter() < start + seconds:
                await client.embed(TEXTS[number])
                count += 1

        async with AsyncClient(nodes.url) as client, asyncio.TaskGroup() as tasks:
            for number in range(len(TEXTS)):
                tasks.create_task(ask(client, number))
        return count / (time.perf_counter() - start)

    return asyncio.run(run())


def _steady(value: Any) -> Any:
    """Leave out what differs from one run to the next."""
    if isinstance(value, list):
        return [_steady(one) for one in value]
    if not isinstance(value, dict):
        return value
    passing = {"milliseconds", "predicted_run_ms", "request_id", "id", "batch_sizes", "gap"}
    keep = passing - ({"id"} if "object" in value else set())
    return {key: _steady(one) for key, one in value.items() if key not in keep}


def _near(value: Any) -> Any:
    """Allow for rounding, which may follow the size of a batch."""
    if isinstance(value, list):
        return [_near(one) for one in value]
    if isinstance(value, dict):
        return {key: _near(one) for key, one in value.items()}
    return pytest.approx(value, rel=1e-4, abs=1e-5) if isinstance(value, float) else value
