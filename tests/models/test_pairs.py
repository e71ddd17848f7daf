"""One document and twenty queries, and the other way round: what is shared is computed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor

from models.backends.torch import TorchBackend
from models.core import shared_cost
from models.elastic import nesting_axis
from models.families.pairs import (
    DOCUMENT,
    EMBEDDING,
    INTERACTIONS,
    QUERY,
    SCORE,
    Pairs,
    PairsConfig,
)
from models.inputs import Item
from models.nn.meeting import CosineScore, PairScore
from models.run.jobs import Done, Job
from tests.conformance.fixtures.pairs import pairs
from tests.tiny_text import exits_config
from tests.walking import done_of

CANDIDATES, DEPTH = 20, 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return pairs(tmp_path_factory.mktemp("pairs"))


def tokens(rng: Random, most: int) -> Tensor:
    return torch.tensor([rng.randrange(4, 60) for _ in range(rng.randint(3, most))])


def items_of(model: Pairs, shared: str) -> list[Item]:
    """Return twenty items that have one of the two texts in common."""
    rng = Random(0)
    other = QUERY if shared == DOCUMENT else DOCUMENT
    one = tokens(rng, 12)
    return [model.inputs.item({shared: one, other: tokens(rng, 12)}) for _ in range(CANDIDATES)]


def jobs_of(model: Pairs, items: Sequence[Item], way: str, depth: int = DEPTH) -> list[Job]:
    subnet = model.space.check(model.space.largest | {"interaction": way, "depth": depth})
    return [Job(model.plan(subnet, model.inputs.shapes(i), [SCORE]), i) for i in items]


def scores(model: Pairs, jobs: Sequence[Job]) -> list[float]:
    done: list[Done] = done_of(TorchBackend(), jobs, model.inputs.collate)
    return [float(one.outputs[SCORE]) for one in done]


@pytest.mark.parametrize("shared", [QUERY, DOCUMENT])
@pytest.mark.parametrize("way", ["bi", "once", "cross"])
def test_scores_together_are_those_one_by_one_in_any_order(
    model: Pairs, way: str, shared: str
) -> None:
    jobs = jobs_of(model, items_of(model, shared), way)
    together = scores(model, jobs)
    order = Random(1).sample(range(CANDIDATES), CANDIDATES)
    shuffled = scores(model, [jobs[i] for i in order])
    for place, i in enumerate(order):
        (alone,) = scores(model, [jobs[i]])
        assert together[i] == pytest.approx(alone, abs=1e-6)
        assert shuffled[place] == pytest.approx(alone, abs=1e-6)


def test_a_kept_document_scores_later_queries_without_being_read_again(model: Pairs) -> None:
    jobs = jobs_of(model, items_of(model, DOCUMENT), "once")
    plan = jobs[0].plan
    of_document = [step for step in plan.joints if step.inputs == (DOCUMENT,)]
    assert Counter(step.key[0] for step in of_document) == {"memory": DEPTH, "exit": 1}  # type: ignore[index]
    keep = frozenset(step.identity for step in of_document)
    (first,) = done_of(TorchBackend(), [Job(plan, jobs[0].item, keep=keep)], model.inputs.collate)
    later = [Job(job.plan, job.item, known=first.kept) for job in jobs[1:]]
    assert {name for step in later[0].rest for name in step.inputs if step.inputs == (name,)} == {
        QUERY
    }
    assert scores(model, later) == pytest.approx(scores(model, jobs)[1:], abs=1e-6)


def test_a_document_is_encoded_once_for_all_queries_and_as_for_its_vector(model: Pairs) -> None:
    items = items_of(model, DOCUMENT)
    jobs = jobs_of(model, items, "once")
    contents = [(job.plan, {n: g.digest for n, g in job.item.items()}) for job in jobs]
    alone = sum(job.plan.cost.macs for job in jobs)
    of_document = sum(s.cost.macs for s in jobs[0].plan if s.inputs == (DOCUMENT,))
    assert shared_cost(contents).macs == alone - (CANDIDATES - 1) * of_document
    apart = jobs_of(model, items[:1], "bi")[0].plan
    shared = {s.identity for s in apart if s.inputs == (DOCUMENT,)}
    assert shared <= jobs[0].plan.identities
    vector = model.plan(model.space.largest, model.inputs.shapes(items[0]), [EMBEDDING])
    assert vector.inputs == (DOCUMENT,)
    assert vector.identities == shared


def test_an_answer_can_be_deepened_exit_by_exit(model: Pairs) -> None:
    axis = nesting_axis(model, model.inputs.plan_shapes())
    assert axis is not None
    assert axis.name == "depth"


def test_with_a_closed_reach_every_way_is_the_encoder_s_own_cosine(tmp_path: Path) -> None:
    model = pairs(tmp_path)
    for reach in model.reach:
        reach.fill_(-1e4)
    for head in model.scores.values():
        assert isinstance(head, CosineScore | PairScore)
        head.start(20.0, -10.0)
    items = items_of(model, QUERY)
    found = [scores(model, jobs_of(model, items, way)) for way in INTERACTIONS]
    assert found[1] == pytest.approx(found[0], abs=1e-4)
    assert found[2] == pytest.approx(found[0], abs=1e-4)
    assert len({round(score, 3) for score in found[0]}) > 1


def test_a_query_that_reads_sees_the_document_and_the_document_only_when_both_read(
    model: Pairs,
) -> None:
    """The document's values depend on the query with `cross` alone."""
    rng = Random(3)
    item = model.inputs.item({QUERY: tokens(rng, 12), DOCUMENT: tokens(rng, 12)})
    for way, mixed in (("bi", set()), ("once", {QUERY}), ("cross", {QUERY, DOCUMENT})):
        (job,) = jobs_of(model, [item], way)
        meets = [step for step in job.plan if step.key[0] == "meeting"]  # type: ignore[index]
        assert len(meets) == DEPTH * len(mixed)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"depths": (1, 2)}, "depths"),
        ({"encoder": exits_config("grouped").encoder}, "'rotary', 'pre'"),
    ],
)
def test_what_cannot_be_built_is_refused(
    model: Pairs, fields: dict[str, object], says: str
) -> None:
    values = {name: getattr(model.config, name) for name in ("query", "document", "projection")}
    known: dict[str, object] = {"encoder": model.config.encoder, "depths": (4,), **values}
    with pytest.raises(ValueError, match=says):
        PairsConfig(**(known | fields))  # type: ignore[arg-type]
