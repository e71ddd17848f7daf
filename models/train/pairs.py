"""Recipe for models that score a query and a document: all ways and all exits in one run.

A step draws some queries, each with a right document and wrong ones: hard ones, which a first model
ranks high, and those of the other queries. It trains either the texts apart together with the query
that reads the document, which share all of the document's layers, or both that read each other. In
each, every exit learns to put the right document first, and all but the last also how the last one
shares out its scores. A teacher's cosines keep the model from forgetting what it came with.

A run may have several lessons, one after the other. Besides the labels there are two without any:
the cross way learns how the texts apart share out their scores, and the other way round. The second
after the labels is DSE, the two in turn are a cycle of Trans-Encoder.

Sources: Zhang et al. 2019, Be Your Own Teacher, arXiv 1905.08094, for exits that the last one
teaches; Liu et al. 2022, Trans-Encoder, arXiv 2109.13059, for vectors that teach a model of pairs
and are taught by it; Barkan et al. 2020, Scalable Attentive Sentence-Pair Modeling via Distilled
Sentence Embedding, AAAI, for the latter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.core import distinct
from models.families.pairs import DOCUMENT, QUERY, SCORE, Interaction, Pairs
from models.nn.ragged import Ragged, Value
from models.train.pairs_recipe import Lesson, PairsRecipe
from models.train.run import RunState, StepPlan, adamw, attention, run_steps

SAVE_EVERY = 50  # steps
_TAUGHT: dict[Lesson, tuple[Interaction, tuple[Interaction, ...]]] = {
    "bi-to-cross": ("bi", ("cross",)),
    "cross-to-bi": ("cross", ("bi", "once")),
}
_PARTS: tuple[tuple[Interaction, ...], ...] = (("bi", "once"), ("cross",))


@dataclass(frozen=True, slots=True)
class RankedTexts:
    """Queries with right and wrong documents.

    Attributes:
        queries: Ids of each.
        documents: Ids of each.
        right: Per query, its right documents, one or more.
        wrong: Per query, hard ones that are not, the hardest first.
        query_vectors: A teacher's unit vectors, shape [queries, dim].
        document_vectors: Likewise of the documents.
    """

    queries: Sequence[Tensor]
    documents: Sequence[Tensor]
    right: Sequence[Sequence[int]]
    wrong: Sequence[Sequence[int]]
    query_vectors: Tensor
    document_vectors: Tensor


def train_pairs(
    model: Pairs, data: Sequence[tuple[RankedTexts, float]], recipe: PairsRecipe, out: Path
) -> None:
    """Train a model in place.

    The state is written every ``SAVE_EVERY`` steps; called again with the same arguments, an
    interrupted run goes on where it stopped.

    Args:
        model: On the device to train on.
        data: Data sets with the share of steps that each is drawn for.
        recipe: Hyper-parameters.
        out: Folder for the state and the log; made if needed.

    Raises:
        ValueError: If a data set has fewer queries than a step takes, or the folder holds the
            state of a run with another recipe.
    """
    for texts, _ in data:
        if len(texts.queries) < recipe.queries:
            raise ValueError(f"{len(texts.queries)} queries are fewer than {recipe.queries}")
    model.train().requires_grad_(True)
    model.embedding.token.requires_grad_(False)  # half of the parameters, as in `train text`
    for i, lesson in enumerate(recipe.lessons):
        _learn(model, data, recipe, lesson, out / f"lesson{i}" if i else out)
    model.eval().requires_grad_(False)


def _learn(
    model: Pairs,
    data: Sequence[tuple[RankedTexts, float]],
    recipe: PairsRecipe,
    lesson: Lesson,
    out: Path,
) -> None:
    optimizer = _optimizer(model, recipe)
    about = {**asdict(recipe), "lessons": list(recipe.lessons)}
    state = RunState({"model": model, "optimizer": optimizer}, about)

    def take(rng: Random) -> float:
        (texts,) = rng.choices([d for d, _ in data], [share for _, share in data])
        return train_step(model, texts, recipe, rng, lesson)

    plan = StepPlan(recipe.steps, recipe.warmup, recipe.seed, SAVE_EVERY)
    run_steps(take, optimizer, model.parameters(), state, out, plan)


def train_step(
    model: Pairs, texts: RankedTexts, recipe: PairsRecipe, rng: Random, lesson: Lesson = "labels"
) -> float:
    """Add the gradients of one batch; return its loss."""
    device = model.embedding.token.weight.device
    picked = rng.sample(range(len(texts.queries)), recipe.queries)
    candidates = draw(texts, picked, recipe, rng)
    labels = torch.tensor(
        [[c in texts.right[q] for c in own] for q, own in candidates.items()], device=device
    )
    teacher = torch.stack(
        [texts.document_vectors[own] @ texts.query_vectors[q] for q, own in candidates.items()]
    ).to(device)
    queries = [texts.queries[q] for q, own in candidates.items() for _ in own]
    documents = [
        texts.documents[c][: recipe.max_tokens] for own in candidates.values() for c in own
    ]
    batch = {
        name: Ragged.pack(rows).to(device)
        for name, rows in ((QUERY, queries), (DOCUMENT, documents))
    }
    taught: Tensor | None = None
    ways = rng.choice(_PARTS)
    with attention(device), torch.autocast(device.type, torch.bfloat16, recipe.bfloat16):
        if lesson != "labels":
            teaching, ways = _TAUGHT[lesson]
            with torch.no_grad():
                *_, last = scores_at_every_exit(model, [teaching], batch)[teaching].values()
            taught = last.float().view(labels.shape)
        found = scores_at_every_exit(model, ways, batch)
    loss = torch.stack(
        [
            ranking_loss(
                {depth: s.float().view(labels.shape) for depth, s in own.items()},
                labels,
                teacher,
                recipe,
                taught,
            )
            for own in found.values()
        ]
    ).mean()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
    return loss.item()


def draw(
    texts: RankedTexts, picked: Sequence[int], recipe: PairsRecipe, rng: Random
) -> dict[int, list[int]]:
    """Return candidates of some queries, as many each, the first of them right."""
    right = {q: rng.choice(texts.right[q]) for q in picked}
    found = {}
    for q in picked:
        hard = rng.sample(texts.wrong[q], min(recipe.hard, len(texts.wrong[q])))
        barred = {*texts.right[q], *hard}
        rest = [c for c in dict.fromkeys(right.values()) if c not in barred]
        count = recipe.hard + recipe.others - len(hard)
        while len(rest) < count:  # few queries, or few hard ones
            c = rng.randrange(len(texts.documents))
            rest += [c] if c not in texts.right[q] else []
        found[q] = [right[q], *hard, *rng.sample(rest, count)]
    return found


def scores_at_every_exit(
    model: Pairs, ways: Sequence[Interaction], batch: dict[str, Ragged]
) -> dict[Interaction, dict[int, Tensor]]:
    """Return the scores of all exits from one pass, by way and depth, shape [rows] each.

    Args:
        model: At its full width.
        ways: What the texts see of each other.
        batch: Ids of the queries and documents, a row each.
    """
    shapes = model.inputs.plan_shapes()
    answers = {
        (way, depth): model.plan(
            model.space.check(model.space.largest | {"interaction": way, "depth": depth}),
            shapes,
            [SCORE],
        ).answers[SCORE]
        for way in ways
        for depth in model.config.depths
    }
    values: dict[bytes, Value] = {}
    for step in distinct(answers.values()):
        taken = [batch[x] if isinstance(x, str) else values[x.identity] for x in step.takes]
        values[step.identity] = step.run(*taken)
    found: dict[Interaction, dict[int, Tensor]] = {way: {} for way in ways}
    for (way, depth), step in answers.items():
        value = values[step.identity]
        assert isinstance(value, Tensor)
        found[way][depth] = value
    return found


def ranking_loss(
    scores: dict[int, Tensor],
    labels: Tensor,
    teacher: Tensor,
    recipe: PairsRecipe,
    taught: Tensor | None = None,
) -> Tensor:
    """Return what every exit of one way has to learn, a scalar.

    Args:
        scores: By depth, shape [queries, candidates]; the last is the deepest.
        labels: Which candidates are right, bool, the same shape.
        teacher: Cosines, the same shape.
        recipe: Weights.
        taught: Another way's scores, which stand in for the labels; None to learn from these.
    """
    *_, last = scores.values()
    aim = (20 * teacher).softmax(1)  # as sharp as `losses.multiple_negatives`
    total = last.new_zeros(())
    for own in scores.values():
        shares = own.log_softmax(1)
        if taught is None:
            right = shares.masked_fill(~labels, 0).sum(1) / labels.sum(1)
            alone = F.binary_cross_entropy_with_logits(own, labels.float())
            loss = recipe.calibration * alone - right.mean()
        else:
            loss = F.kl_div(shares, taught.softmax(1), reduction="batchmean")
        loss = loss + recipe.teacher * F.kl_div(shares, aim, reduction="batchmean")
        if own is not last:
            fixed = last.detach().log_softmax(1)
            kept = F.kl_div(shares, fixed, log_target=True, reduction="batchmean")
            loss = loss + recipe.last_exit * kept
        total = total + loss
    return total / len(scores)


def _optimizer(model: Pairs, recipe: PairsRecipe) -> torch.optim.Optimizer:
    def terms(name: str, parameter: nn.Parameter) -> tuple[float, float]:
        if name.startswith("reach."):
            return recipe.reach_rate, 0.0
        if name.startswith(("exits.", "scores.")):
            return recipe.head_rate, 0.0
        return recipe.learning_rate, recipe.weight_decay if parameter.ndim > 1 else 0.0

    return adamw(model, terms)
