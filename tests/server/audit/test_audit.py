"""Audits, end to end: what was answered is compared in idle moments, and promises follow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from models import checkpoint
from models.backends.torch import TorchBackend
from models.families.exits import Exits
from search.budget import Budget
from search.quality.alike import whole_of
from search.quality.audit import AgreementSample
from search.quality.embeddings import Measured, table_of
from search.quality.table import TABLE
from search.quality.whole_agreement import scores_and_agreement
from server import catalog
from server.api.rheostat.schema import MAX_PRIORITY
from server.app import create_app
from server.audit.audit import Audit
from server.audit.rerun import Rerun
from server.choose import Question
from server.engine.engine import Engine
from server.engine.flows import BACKGROUND
from server.inputs.decoder import Decoder
from server.inputs.sources import Passage
from server.rerank import rerank
from server.served import Served
from server.service import Service
from server.settings import Settings, SettingsError
from tests.server.around import service_around
from tests.server.backends import HeldBackend
from tests.server.samples import run
from tests.tiny_text import write_text_weights

TEXTS = [f"w{i} w{3 * i % 50} w{7 * i % 50}" for i in range(1, 30)]
WAIT_S = 20.0


class _Texts:
    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def score(self, vectors: object) -> Measured:
        return Measured(0.5, 100, 0.01)


def write_model(folder: Path, drifted: bool = False) -> Path:
    """Write a model whose table says how far its subnets agree on these texts, or more."""
    write_text_weights(folder)
    model = checkpoint.load(folder).model
    backend = TorchBackend()
    backend.prepare(model)
    subnets = list(model.space)
    _, agreed = scores_and_agreement(model, backend, _Texts(TEXTS), subnets)
    if drifted:  # as if it had been measured on texts on which they agree better
        agreed = [1 - (1 - one) / 4 for one in agreed]
    extent = [model.plan(one, {"text": (8,)}).cost.macs for one in subnets]
    worth = [Measured(0.8 + 0.1 * macs / max(extent), 5000, 0.001) for macs in extent]
    table = table_of(model, subnets, {"similarity": worth}, {"similarity": agreed})
    table.save(folder / TABLE, model.space)
    checkpoint.cover(folder, TABLE)
    return folder


@pytest.fixture(autouse=True)
def torch_keeps_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # for this process's other tests


@pytest.fixture(params=[False, True], ids=["as-expected", "drifted"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TestClient]:
    write_model(tmp_path / "models" / "tiny-text", request.param)
    settings = Settings(
        models=tmp_path / "models", policy="fixed", audit_share=1.0, audited_quality=True
    )
    with TestClient(create_app(settings)) as client:
        yield client


def until(is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def metric(client: TestClient, name: str) -> float:
    (line,) = [
        one for one in client.get("/metrics").text.splitlines() if one.startswith(f"{name} ")
    ]
    return float(line.split()[1])


def embed(client: TestClient, text: str, **budget: Any) -> dict[str, Any]:
    answer = client.post("/v1/embeddings", json={"input": text, "budget": budget})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_what_audits_see_is_told_and_promises_follow_a_drift(client: TestClient) -> None:
    first = embed(client, TEXTS[0], min_quality=0.93)["receipt"]
    assert first["fraction"] < 1
    for text in TEXTS:
        embed(client, text, fraction=first["fraction"])
        time.sleep(0.03)
    until(lambda: metric(client, "rheostat_audit_compared_total") >= 20)
    detail = client.get("/v1/models/tiny-text").json()
    audited = {n: point["audit"] for n, point in enumerate(detail["front"]) if point["audit"]}
    assert audited
    seen = max(audited.values(), key=lambda one: one["samples"])
    assert seen["samples"] >= 10
    assert seen["agreement_low"] <= seen["agreement"] <= seen["agreement_high"] <= 1.01
    text = client.get("/metrics").text
    number = next(n for n, one in audited.items() if one == seen)
    assert f'rheostat_audit_agreement{{front="{number}",model="tiny-text"}}' in text
    after = embed(client, TEXTS[0], min_quality=0.93)["receipt"]
    is_drifted = seen["agreement"] < seen["expected"] - 0.05
    if is_drifted:
        assert seen["kept"] < 0.97
        assert after["fraction"] > first["fraction"]
    else:
        assert seen["agreement"] == pytest.approx(seen["expected"], abs=0.06)


def test_a_question_without_a_floor_is_answered_as_before(client: TestClient) -> None:
    before = embed(client, TEXTS[0], fraction=0.6)
    for text in TEXTS:
        embed(client, text, fraction=0.6)
    until(lambda: metric(client, "rheostat_audit_compared_total") >= 5)
    assert embed(client, TEXTS[0], fraction=0.6)["data"] == before["data"]


def make_audit(served: Served, share: float = 1.0, max_bytes: int = 10**7) -> Audit:
    return Audit(share, max_bytes, 0.95, True, catalog.Catalog([served]), lambda: 0.0)


async def ended(audit: Audit) -> None:
    """Wait until all that was kept has been compared, or given up."""
    while audit.stats.compared + audit.stats.dropped + audit.stats.failed < audit.stats.kept:
        await asyncio.sleep(0.005)


def asked(text: str, fraction: float = 0.5) -> tuple[Question, list[dict[str, Passage]]]:
    return Question(None, None, Budget(fraction=fraction)), [{"text": Passage("input", text)}]


@pytest.fixture
def model(tmp_path: Path) -> Served:
    return catalog.load_one(write_model(tmp_path / "tiny-text"))


@asynccontextmanager
async def audited(
    served: Served, decoder: Decoder, audit: Audit, backend: TorchBackend | None = None
) -> AsyncIterator[tuple[Service, Engine]]:
    """A service whose audit compares what it keeps, until the end of the block."""
    around = service_around(served, decoder, backend or TorchBackend(), 8, 64, audit=audit)
    async with around as (service, engine):
        await service.warm_up()
        clock = asyncio.get_running_loop().time
        async with Rerun(audit, engine, service.variants, service.uses, clock).running():
            yield service, engine


def test_whoever_comes_stops_a_comparison_that_is_taken_up_again(
    model: Served, decoder: Decoder
) -> None:
    async def scenario() -> None:
        backend, audit = HeldBackend(), make_audit(model)
        async with audited(model, decoder, audit, backend) as (service, _):
            await service.infer(model, *asked(TEXTS[0]))
            assert audit.stats.kept == 1
            backend.hold()
            await backend.until_held()  # the comparison
            answering = asyncio.create_task(service.infer(model, *asked(TEXTS[1])))
            while not audit.stats.stopped:
                await asyncio.sleep(0.001)
            backend.release()
            answer = await answering
            assert len(answer.outputs) == 1
            while audit.stats.compared < 2:
                await asyncio.sleep(0.01)
        assert audit.stats.failed == audit.stats.dropped == audit.stats.waiting == 0
        assert audit.stats.bytes == 0
        assert audit.stats.flops > 0

    run(scenario())


def test_nothing_is_compared_while_somebody_is_inside(model: Served, decoder: Decoder) -> None:
    async def scenario() -> None:
        audit = make_audit(model)
        async with audited(model, decoder, audit) as (service, engine):
            with engine.reserve(1):
                await service.infer(model, *asked(TEXTS[0]))
                await asyncio.sleep(0.2)
                assert audit.stats.waiting == 1
                assert audit.stats.compared == 0
            while not audit.stats.compared:
                await asyncio.sleep(0.01)

    run(scenario())


def test_what_waits_is_bounded_in_bytes_and_counted(model: Served, decoder: Decoder) -> None:
    async def scenario() -> None:
        audit = make_audit(model, max_bytes=5000)  # two texts
        async with service_around(model, decoder, TorchBackend(), 8, 64, audit=audit) as (
            service,
            _,
        ):
            await service.warm_up()
            for text in TEXTS[:10]:
                await service.infer(model, *asked(text))
        stats = audit.stats
        assert stats.waiting == 2
        assert stats.kept == 10
        assert stats.dropped == 8
        assert 0 < stats.bytes <= 5000
        audit.forget(model)
        assert audit.stats.waiting == audit.stats.bytes == 0
        assert audit.stats.dropped == 10

    run(scenario())


def test_audits_take_at_most_twice_their_share_of_the_compute(
    model: Served, decoder: Decoder
) -> None:
    async def scenario() -> None:
        audit = make_audit(model, share=0.05)  # and every request has its turn
        spent = 0
        async with audited(model, decoder, audit) as (service, _):
            for text in TEXTS * 4:
                spent += (await service.infer(model, *asked(text))).flops
            while (
                audit.stats.waiting or audit.stats.compared + audit.stats.dropped < audit.stats.kept
            ):
                await asyncio.sleep(0.01)
        assert 0 < audit.stats.flops <= 2 * 0.05 * spent
        assert audit.stats.compared >= 4

    run(scenario())


def test_whole_answers_are_not_compared(model: Served, decoder: Decoder) -> None:
    async def scenario() -> None:
        audit = make_audit(model)
        async with service_around(model, decoder, TorchBackend(), 8, 64, audit=audit) as (
            service,
            _,
        ):
            await service.warm_up()
            await service.infer(model, Question(None, None, Budget()), asked(TEXTS[0])[1])
        assert audit.stats.kept == 0

    run(scenario())


def test_lists_are_compared_by_their_order_as_well(model: Served, decoder: Decoder) -> None:
    async def scenario() -> None:
        audit = make_audit(model)
        async with audited(model, decoder, audit) as (service, _):
            documents = [Passage(f"documents[{i}]", text) for i, text in enumerate(TEXTS)]
            question = asked("", 0.5)[0]
            await rerank(service, model, question, Passage("query", "w1 w2"), documents)
            while not audit.stats.compared:
                await asyncio.sleep(0.01)
        (point,) = audit.points(model).values()
        assert point.ranks is not None
        assert 0 <= point.ranks.mean <= 1

    run(scenario())


def test_a_whole_answer_that_an_audit_made_whole_still_shows_what_was_promised(
    model: Served, decoder: Decoder
) -> None:
    """Else nothing could show that the drift is over."""

    async def scenario() -> None:
        audit = make_audit(model)
        promised = model.finders.at(fixed=model.whole_outputs).find(budget=Budget(min_quality=0.97))
        point = audit.point_of(model, promised.subnet, promised.fraction)
        for _ in range(40):
            audit.add(model, [AgreementSample(point, 0.0, 0.9)])
        question = Question(None, None, Budget(min_quality=0.97), model.whole_outputs)
        async with audited(model, decoder, audit) as (service, _):
            fractions = []
            for text in TEXTS:
                answer = await service.infer(model, question, asked(text)[1])
                fractions.append(answer.selection.fraction)
                await ended(audit)
        assert fractions[0] == 1.0
        seen = audit.points(model)[point]
        assert seen.samples == 40 + audit.stats.compared
        assert audit.stats.compared >= len(TEXTS) // 2

    run(scenario())


def test_a_drift_raises_what_a_promised_quality_takes_and_bounds_the_rest(model: Served) -> None:
    audit = make_audit(model)
    assert audit.floors(model) is None
    for _ in range(50):
        audit.add(model, [AgreementSample(0, 0.5, 0.75)])
    floors = audit.floors(model)
    assert floors is not None
    assert floors.kept is not None
    (kept,) = floors.kept.values()
    assert kept[-1, 0] == pytest.approx(1.0)
    assert (kept <= 1).all()
    known = model.table.cells["similarity"].known_agreement
    assert np.isfinite(known).all()
    left = (1 - 2 * (1 - known)) / known.clip(0.01, 1)
    np.testing.assert_allclose(kept, left.clip(0, 1), atol=0.06)


def test_no_request_can_step_back_behind_audits() -> None:
    assert MAX_PRIORITY < BACKGROUND


def test_qualities_cannot_go_by_audits_that_are_off() -> None:
    with pytest.raises(SettingsError, match="audited_quality=True needs an audit_share above 0"):
        Settings.of(audited_quality=True)


def test_a_model_without_expectations_is_shown_and_changes_nothing(
    model: Served, text_model: Exits
) -> None:
    cells = {task: replace(own, agreement=None) for task, own in model.table.cells.items()}
    bare = replace(model, table=replace(model.table, cells=cells))
    audit = make_audit(bare)
    audit.add(bare, [AgreementSample(0, 0.3, None)])
    assert audit.points(bare)[0].kept is None
    floors = audit.floors(bare)
    assert floors is not None
    assert floors.kept is not None
    assert all((kept == 1).all() for kept in floors.kept.values())


def test_the_whole_of_a_subnet_is_of_its_size(text_model: Exits) -> None:
    smallest = text_model.space.smallest
    assert whole_of(text_model.space, smallest)["dim"] == smallest["dim"]
