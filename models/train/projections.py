"""A closed-form start for the projections of a multi-exit encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.families.exits import Exits
from models.ragged import Ragged
from models.train.text import pooled_exits

_BATCH_SIZE = 64


@torch.no_grad()
def fit_projections(model: Exits, tokens: Sequence[Tensor], ridge: float = 1e-2) -> Tensor:
    """Start the exits' projections in closed form, and return the teacher's rotated vectors.

    The full vectors are rotated onto their principal axes, which changes no cosine and puts most
    of the variance first; each earlier exit gets the ridge regression from its pooled states to
    those. The vectors of the model's last exit before the call are the teacher.

    Args:
        model: With square projections that start as the identity.
        tokens: Ids of the texts to fit on, thousands of them.
        ridge: Relative to the mean variance of the inputs.

    Returns:
        Unit vectors of the texts by the rotated teacher, shape [texts, dim].
    """
    groups, units = model.widths(model.space.largest)
    parts: dict[int, list[Tensor]] = {depth: [] for depth in model.config.depths}
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    for start in range(0, len(order), _BATCH_SIZE):
        batch = Ragged.pack([tokens[i] for i in order[start : start + _BATCH_SIZE]])
        for depth, rows in pooled_exits(model, batch, groups, units).items():
            parts[depth].append(rows)
    back = torch.tensor(order).argsort()
    pooled = {depth: torch.cat(rows)[back].double() for depth, rows in parts.items()}
    last = model.config.depths[-1]
    teacher = F.normalize(pooled[last], dim=1)
    rotation = torch.linalg.eigh(teacher.T @ teacher).eigenvectors.flip(1).T  # [new, old]
    target: Tensor = teacher @ rotation.T
    for depth, states in pooled.items():
        projection = model.projection(depth)
        if depth == last:
            weight, bias = rotation, torch.zeros(len(rotation), dtype=torch.float64)
        else:
            mean, centre = states.mean(0), target.mean(0)
            x, y = states - mean, target - centre
            gram = x.T @ x
            gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
            weight = torch.linalg.solve(gram, x.T @ y).T
            bias = centre - weight @ mean
        projection.weight.copy_(weight.float())
        projection.bias.copy_(bias.float())
    return target.float()
