from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from math import inf

import pytest

from models.backends.torch import TorchBackend
from models.core import Plan
from models.nn.ragged import Value
from search.budget import Budget, InfeasibleBudgetError
from server import catalog
from server.choose import Question
from server.clients.caller import Caller
from server.engine.load import HIGHEST_PRICE, Load, LoadPolicy, Moment
from server.errors import (
    DeadlineError,
    InvalidRequestError,
    ModelNotReadyError,
    OverloadedError,
)
from server.inputs.decoder import Decoder
from server.inputs.sources import Passage, Sources, Upload
from server.observe.metrics import Stage
from server.ranking import Cascade, Wish
from server.rerank import rerank
from server.served import Served
from server.service import Service
from server.settings import Settings
from tests.server.around import service_around
from tests.server.backends import FailingBackend, HeldBackend
from tests.server.samples import image, run

MAX_QUEUE = 4
ANYTHING = Question(None, None, Budget())
IMPOSSIBLE = Question(None, None, Budget(macs=1))


def uploads(num_images: int) -> list[Sources]:
    return [{"image": Upload(f"images[{i}]", image(i))} for i in range(num_images)]


@asynccontextmanager
async def running(
    served: Served,
    decoder: Decoder,
    backend: TorchBackend,
    max_batch_size: int = 8,
    policy: LoadPolicy | None = None,
) -> AsyncIterator[Service]:
    """A service whose clock ticks once each time it is read."""
    ticks, engine_ticks = count(), count()
    clocks = (lambda: next(ticks), lambda: next(engine_ticks))
    around = service_around(served, decoder, backend, max_batch_size, MAX_QUEUE, policy, *clocks)
    async with around as (service, _):
        yield service


def test_a_service_is_ready_once_every_model_has_run(served: Served, decoder: Decoder) -> None:
    async def scenario() -> None:
        async with running(served, decoder, TorchBackend()) as service:
            states = [service.is_ready]
            await service.warm_up()
            states.append(service.is_ready)
        assert [*states, service.is_ready] == [False, True, False]
        with pytest.raises(ModelNotReadyError, match="the engine is not running"):
            await service.infer(served, ANYTHING, uploads(1))

    run(scenario())


class ExpectingBackend(TorchBackend):
    """Notes what it is told to make ready for."""

    def __init__(self) -> None:
        super().__init__()
        self.expected: list[tuple[Plan, Mapping[str, Value]]] = []

    def expect(self, plan: Plan, inputs: Mapping[str, Value], build: bool = True) -> None:
        if build:
            self.expected.append((plan, inputs))


def test_a_back_end_is_told_at_the_start_what_requests_without_a_budget_run(
    served: Served, decoder: Decoder
) -> None:
    async def scenario() -> None:
        backend = ExpectingBackend()
        async with running(served, decoder, backend) as service:
            await service.warm_up()
        ((plan, inputs),) = backend.expected
        whole = served.elastic.plan(served.elastic.space.largest, served.inputs.plan_shapes())
        assert [step.identity for step in plan] == [step.identity for step in whole]
        assert backend.run(plan, inputs).keys() == served.elastic.tasks.keys()

    run(scenario())


def test_a_full_server_refuses_before_it_searches_or_decodes(
    served: Served, decoder: Decoder
) -> None:
    async def scenario() -> None:
        backend = HeldBackend()
        async with running(served, decoder, backend) as service:
            backend.hold()
            first = asyncio.create_task(service.infer(served, ANYTHING, uploads(2)))
            await backend.until_held()
            with pytest.raises(OverloadedError, match="2 inputs are being served and 3 more"):
                await service.infer(served, IMPOSSIBLE, [{"image": Upload("image", b"wrong")}] * 3)
            backend.release()
            assert len((await first).outputs) == 2
            await service.infer(served, ANYTHING, uploads(MAX_QUEUE))

    run(scenario())


def test_a_budget_that_cannot_be_met_is_refused_before_anything_runs(
    served: Served, decoder: Decoder
) -> None:
    async def scenario() -> None:
        backend = FailingBackend()
        backend.error = AssertionError("it ran")
        async with running(served, decoder, backend) as service:
            with pytest.raises(InfeasibleBudgetError, match="too small"):
                await service.infer(served, IMPOSSIBLE, uploads(1))

    run(scenario())


def test_one_wrong_image_refuses_the_request_and_gives_its_room_back(
    served: Served, decoder: Decoder
) -> None:
    async def scenario() -> None:
        async with running(served, decoder, TorchBackend()) as service:
            wrong = [*uploads(2), {"image": Upload("images[2]", b"wrong")}]
            for _ in range(MAX_QUEUE):
                with pytest.raises(InvalidRequestError, match=r"images\[2\]: not an image"):
                    await service.infer(served, ANYTHING, wrong)
            assert b"rheostat_queue_depth 0.0" in service.metrics.text()
            await service.infer(served, ANYTHING, uploads(MAX_QUEUE))

    run(scenario())


def test_stages_are_timed_and_recorded(served: Served, decoder: Decoder) -> None:
    async def scenario() -> None:
        async with running(served, decoder, TorchBackend()) as service:
            answer = await service.infer(served, ANYTHING, uploads(2))
            assert answer.seconds[Stage.SEARCH] == 1
            assert answer.seconds[Stage.DECODE] == 1
            assert answer.seconds[Stage.TOTAL] == 3
            text = service.metrics.text().decode()
            for stage in Stage:
                sample = f'rheostat_stage_seconds_sum{{model="tiny",stage="{stage}"}} '
                assert f"{sample}{float(answer.seconds[stage])}" in text
            flops = float(2 * answer.selection.cost.flops)
            (line,) = (x for x in text.splitlines() if x.startswith("rheostat_flops_spent_total"))
            assert float(line.split()[-1]) == flops

    run(scenario())


def test_the_wait_told_is_that_of_the_image_that_took_longest(
    served: Served, decoder: Decoder
) -> None:
    async def scenario() -> None:
        async with running(served, decoder, TorchBackend(), max_batch_size=1) as service:
            answer = await service.infer(served, ANYTHING, uploads(2))
            # Ticks: both submitted 0, first taken 1 and done 2, second taken 3 or later.
            assert answer.seconds[Stage.QUEUE] >= 3

    run(scenario())


def test_a_request_past_its_timeout_is_given_up(served: Served, decoder: Decoder) -> None:
    async def scenario() -> None:
        async with running(served, decoder, TorchBackend()) as service:
            with pytest.raises(DeadlineError):
                await service.infer(served, replace(ANYTHING, timeout_s=-1.0), uploads(1))
            answer = await service.infer(served, replace(ANYTHING, timeout_s=1e6), uploads(1))
            assert len(answer.outputs) == 1
            missed = 'rheostat_latency_budgets_total{model="tiny",outcome="missed"} 0.0'
            assert missed in service.metrics.text().decode()  # no budget was given

    run(scenario())


@pytest.mark.parametrize(("asked", "expected"), [(None, 2), (1, 2), (3, 3)])
def test_works_are_their_callers_and_step_back_but_never_ahead(
    served: Served, decoder: Decoder, asked: int | None, expected: int
) -> None:
    async def scenario() -> None:
        async with running(served, decoder, TorchBackend()) as service:
            caller = Caller("shop", weight=2.5, priority=2)
            question = replace(ANYTHING, caller=caller, priority=asked)
            async with service.admit(served, question, uploads(1)) as admitted:
                prepared = served.prepare(admitted.selection.subnet, admitted.selection.scores)
                ticket = admitted.queued(prepared, admitted.items[0], {}).ticket
                await admitted.run(prepared)
            assert (ticket.client, ticket.weight, ticket.priority) == ("shop", 2.5, expected)

    run(scenario())


class Overload(LoadPolicy):
    """Everybody gets the cheapest subnet."""

    name = "overload"

    def decide(self, moment: Moment) -> Load:
        return Load(HIGHEST_PRICE, inf)


def test_load_that_leaves_a_cascade_nothing_to_go_on_to_ranks_all_in_one_pass(
    text_settings: Settings, decoder: Decoder
) -> None:
    text = catalog.load(text_settings.models_folder)["tiny-text"]
    query, documents = Passage("query", "w1"), [Passage("documents[0]", "w2")]

    async def scenario() -> None:
        async with running(text, decoder, TorchBackend(), policy=Overload()) as service:
            slim = replace(ANYTHING, budget=Budget(strict=False))
            ranking = await rerank(service, text, slim, query, documents, Wish(Cascade(2, 1)))
            assert ranking.choice.is_slimmed
            assert ranking.choice.selection.subnet["depth"] == 1
            assert ranking.deepened == []
            with pytest.raises(InvalidRequestError, match=r"cascade\.depth=9"):
                await rerank(service, text, slim, query, documents, Wish(Cascade(9, 1)))

    run(scenario())
