from __future__ import annotations

import numpy as np
import pytest
import torch

from models.tasks import Task
from models.train.maps import judge_of, parts_of, scale_of, score_of, vision_loss
from models.train.vision import UNKNOWN, VOID
from tests.tiny_dense import TASKS

PARTS, DEPTH, NORMALS, PLACE = TASKS
EDGES = Task("edges", "map", ("none", "edge"), "f1")
IMAGES, SIZE = 6, (5, 7)


def made_up(task: Task, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Answers and truth of which some is not known; the last image is not known at all."""
    generator = torch.Generator().manual_seed(seed)
    channels = len(task.labels or task.channels)
    if task.kind == "classes":
        truth = torch.randint(0, channels, (IMAGES,), generator=generator)
        truth[-1] = UNKNOWN
        return torch.randn(IMAGES, channels, generator=generator), truth
    answer = torch.randn(IMAGES, channels, *SIZE, generator=generator)
    void = torch.rand(IMAGES, *SIZE, generator=generator) < 0.2
    void[-1] = True
    if task.labels:
        labels = torch.randint(0, channels, (IMAGES, *SIZE), generator=generator)
        return answer, labels.masked_fill(void, VOID).to(torch.uint8)
    numbers = torch.randn(IMAGES, channels, *SIZE, generator=generator)
    if task is NORMALS:
        answer, numbers = (torch.nn.functional.normalize(x, dim=1) for x in (answer, numbers))
    return answer, numbers.masked_fill(void[:, None], torch.nan)


def expected(task: Task, answer: torch.Tensor, truth: torch.Tensor) -> float:
    """The score by its textbook definition, over all pixels together."""
    if task is PLACE:
        return float((answer.argmax(1) == truth)[:-1].double().mean())
    if task.labels:
        known = truth != VOID
        found, right = answer.argmax(1)[known], truth[known]
        if task is EDGES:
            hits = ((found == 1) & (right == 1)).sum().double()
            precision, recall = hits / (found == 1).sum(), hits / (right == 1).sum()
            return float(2 * precision * recall / (precision + recall))
        ious = [
            ((found == c) & (right == c)).sum() / ((found == c) | (right == c)).sum()
            for c in range(len(task.labels))
        ]
        return float(torch.stack(ious).mean())
    known = truth.isfinite().all(1)
    one, other = (x.movedim(1, -1)[known].double() for x in (answer, truth))
    if task is NORMALS:
        return float((one * other).sum(1).clamp(-1, 1).acos().mean() * 180 / np.pi)
    return float(((one - other) ** 2).mean().sqrt())


EVERY = pytest.mark.parametrize("task", [*TASKS, EDGES], ids=lambda task: task.metric)


@EVERY
def test_scores_are_those_of_the_field_over_what_is_known(task: Task) -> None:
    answer, truth = made_up(task)
    ratios = judge_of(task)(answer, truth)
    assert len(ratios.tops) == IMAGES
    score = score_of(task, parts_of(ratios))
    assert float(score) == pytest.approx(expected(task, answer, truth), abs=1e-6)


@EVERY
def test_the_parts_of_images_give_the_standard_error(task: Task) -> None:
    """Against other draws of the images: a bootstrap."""
    answer, truth = (torch.cat([made_up(task, seed)[i][:-1] for seed in range(8)]) for i in (0, 1))
    ratios = judge_of(task)(answer, truth)
    parts = parts_of(ratios)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, len(parts), (2000, len(parts)), generator=generator)
    scores = torch.stack(
        [parts_of(type(ratios)(*(x[rows] for x in ratios))).mean() for rows in drawn]
    )
    stderr = float(parts.std() / len(parts) ** 0.5)
    assert stderr == pytest.approx(float(scores.std()), rel=0.12)


@EVERY
def test_losses_ignore_what_is_not_known_and_fall_as_answers_become_right(task: Task) -> None:
    answer, truth = made_up(task)
    scale = scale_of(task, truth)
    changed = answer.clone()
    changed[-1] += 3  # nothing is known there
    before = vision_loss(task, answer, truth, scale)
    assert float(vision_loss(task, changed, truth, scale)) == pytest.approx(float(before))
    answer.requires_grad_(True)
    optimizer = torch.optim.Adam([answer], lr=0.3)
    for _ in range(40):
        optimizer.zero_grad()
        unit = torch.nn.functional.normalize(answer, dim=1) if task is NORMALS else answer
        vision_loss(task, unit, truth, scale).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    unit = torch.nn.functional.normalize(answer, dim=1) if task is NORMALS else answer
    assert float(vision_loss(task, unit, truth, scale).detach()) < 0.2 * float(before)
    nothing = truth[-1:]
    loss = vision_loss(task, answer[-1:], nothing, scale)
    assert loss.item() == 0
    assert loss.requires_grad


def test_edges_weigh_more_the_fewer_they_are() -> None:
    truth = torch.zeros(1, 10, 10, dtype=torch.uint8)
    truth[0, :2, :2] = 1
    weights = scale_of(EDGES, truth).weights
    assert weights.tolist() == pytest.approx([1, 24**0.5])


def test_another_metric_or_shape_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"task 'x': metric='spearman' must be one of \['accuracy'"
    ):
        judge_of(Task("x", "score", metric="spearman"))
    with pytest.raises(ValueError, match=r"answers of shape \[2, 4, 4\], truth of \[2, 4, 5\]"):
        judge_of(PARTS)(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 5, dtype=torch.uint8))
