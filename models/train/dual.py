"""A recipe for two heads on vectors that stay: one learns from labels, one from a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from models.families.dual import LABELS, TEACHER, DualHeads, TwoHeads
from models.train.run import train_part


@dataclass(frozen=True)
class DualRecipe:
    """Hyper-parameters of one run.

    Attributes:
        shots: Labelled texts of each class.
        texts: That only the teacher has seen, at most.
        temperature: By which the teacher's cosines are divided.
        steps: Optimiser steps.
        batch_size: Texts per step that the teacher has seen; labelled ones are all in each.
        learning_rate: Peak, after the warm-up, then a cosine down to zero.
        warmup: Fraction of the steps.
        weight_decay: Of AdamW, on matrices only.
        seed: For which texts have labels, order and draws.
    """

    shots: int = 5
    texts: int = 3000
    temperature: float = 0.05
    steps: int = 600
    batch_size: int = 256
    learning_rate: float = 0.05
    warmup: float = 0.1
    weight_decay: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Known:
    """What heads learn from.

    Attributes:
        vectors: By exit, of each of its widths the vectors of all texts, shape [widths, texts,
            dim].
        labels: Classes of the first texts, int64, shape [labelled].
        teacher: Probabilities of the classes, of all texts, shape [texts, classes].
    """

    vectors: Sequence[Tensor]
    labels: Tensor
    teacher: Tensor


def train_dual(
    model: DualHeads, known: Known, recipe: DualRecipe, out: Path, apart: bool = True
) -> None:
    """Train a model's heads in place; the wrapped model does not change.

    Args:
        model: With heads for each exit.
        known: By exit as the model's axis has them.
        recipe: Hyper-parameters.
        out: Folder for the state and the log; a run that was interrupted goes on.
        apart: Whether each head learns from its own. False is the control: what labels teach
            learns from the teacher too.

    Raises:
        ValueError: If the folder holds the state of a run with another recipe.
    """
    labelled, texts = len(known.labels), len(known.teacher)

    def take(rng: Random) -> float:
        picked = torch.tensor(rng.sample(range(texts), min(recipe.batch_size, texts)))
        loss = torch.zeros(())
        for heads, vectors in zip(model.heads, known.vectors, strict=True):
            assert isinstance(heads, TwoHeads)
            own = vectors[rng.randrange(len(vectors))]
            found = heads(LABELS, own[:labelled])
            loss = loss + F.cross_entropy(found, known.labels)
            for head in (TEACHER,) if apart else (LABELS, TEACHER):
                loss = loss + F.cross_entropy(heads(head, own[picked]), known.teacher[picked])
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        return loss.item() / len(known.vectors)

    for parameter in model.heads.parameters():
        parameter.data.zero_()
    train_part(model, "heads", take, recipe, out, recipe.weight_decay)
