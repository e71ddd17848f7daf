"""How many images there is time for when a convolutional classifier is made elastic."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.backends.torch import TorchBackend
from models.elasticize.channels import CHANNEL_RANKINGS, Group, groups_of
from models.families.convnet import Convnet
from search.offline.options import RunOptions
from search.offline.whole import MARGIN, PACE_ITEMS, TABLE_PART, Whole, seconds_of
from search.quality.items import Batches, Item
from search.quality.table import FloatArray

RANKED_KEEP = 0.6  # where rankings are compared
LAST_PART, _CHOOSING_PART = 0.45, 0.25  # of the time: the last fit; running cuts on what chooses
_ROUNDS = 2  # cuts of every budget that shall be tried
_LEAST, _MOST = 32, 256  # images that trials are fitted on
_FITTING = 2.0  # fitting a cut, in passes of it
_PROBING = 0.75  # of a pass: a probe is fitted up to its block, and shares with others up to it
_RANKING = 2  # passes: one for what channels are worth, one for what cuts are fitted to


def whole_of_images(model: Convnet, options: RunOptions, clock: Callable[[], float]) -> Whole:
    """Return the whole model and how long it may be run.

    Args:
        model: The whole model.
        options: See `RunOptions`.
        clock: In seconds.
    """
    (task,) = model.tasks.values()
    of_all = sum(options.keep)
    return Whole(
        answers=lambda items: answers_of(model, items),
        task=task,
        tokens=len,
        for_choosing=_CHOOSING_PART * options.seconds / _choosing_passes(model, options),
        for_reporting=TABLE_PART * options.seconds / (of_all + 1),
        clock=clock,
    )


def _choosing_passes(model: Convnet, options: RunOptions) -> float:
    """Return how often the whole model could be run instead of all that is run to choose."""
    of_rankings = len(CHANNEL_RANKINGS) * RANKED_KEEP
    return of_rankings + _ROUNDS * sum(options.keep) + _PROBING * probes_of(groups_of(model))


def afforded(
    model: Convnet, items: Sequence[Item], options: RunOptions, clock: Callable[[], float]
) -> int:
    """Return how many images there is time for to rank channels and to fit trials on.

    Args:
        model: The whole model.
        items: The user's; the first of them are run.
        options: See `RunOptions`.
        clock: In seconds.
    """
    few = items[:PACE_ITEMS]
    pace = seconds_of(lambda: answers_of(model, few), clock) / len(few)
    passes = _choosing_passes(model, options) * _FITTING + _RANKING * len(CHANNEL_RANKINGS)
    part = (1 - LAST_PART - _CHOOSING_PART) * options.seconds
    return min(_MOST, max(_LEAST, int(part / (MARGIN * pace * passes))))


def probes_of(groups: Sequence[Group]) -> int:
    """Return how many cuts of one block alone are tried."""
    return len(groups) + sum(group.alone for group in groups)


def answers_of(model: Convnet, items: Sequence[Item]) -> FloatArray:
    """Return the whole model's logits, shape [items, classes]."""
    plan = model.plan(model.space.largest, model.inputs.plan_shapes())
    (task,) = model.tasks
    batches, backend = Batches(model, items), TorchBackend()
    with torch.inference_mode():
        rows = [backend.run(plan, batch)[task] for batch in batches]
    return batches.in_order(torch.cat(rows).double().numpy())


def images_of(batches: Batches) -> list[Tensor]:
    """Return images as they are decoded, batch by batch."""
    found = []
    for batch in batches:
        (images,) = batch.values()
        assert isinstance(images, Tensor)
        found.append(images)
    return found
