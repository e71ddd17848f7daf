"""What text encoders learn from: a teacher's distances, pairs that belong together, rated pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from models.train import losses


@dataclass(frozen=True, slots=True)
class Distances:
    """Texts whose cosines a teacher knows.

    Attributes:
        tokens: Ids per text.
        teacher: Unit vectors, shape [texts, dim].
    """

    tokens: Sequence[Tensor]
    teacher: Tensor


@dataclass(frozen=True, slots=True)
class Partners:
    """Pairs that belong together; partner i of text i.

    Attributes:
        first: Ids per text.
        second: Ids of each partner.
    """

    first: Sequence[Tensor]
    second: Sequence[Tensor]


@dataclass(frozen=True, slots=True)
class Rated:
    """Pairs rated by people.

    Attributes:
        first: Ids per text.
        second: Ids of each other text.
        score: Ratings, float32, shape [pairs].
    """

    first: Sequence[Tensor]
    second: Sequence[Tensor]
    score: Tensor


Examples = Distances | Partners | Rated


def base_loss(vectors: Tensor, examples: Examples, picked: Sequence[int]) -> Tensor:
    """Return what the examples ask of unit vectors, a scalar.

    Args:
        vectors: Shape [texts, dim]; of pairs all first texts, then all second ones.
        examples: Any.
        picked: Which of the examples the vectors belong to.
    """
    match examples:
        case Distances():
            teacher = examples.teacher[list(picked)].to(vectors.device)
            loss = 10 * losses.similarity_distillation(vectors, teacher)
            if vectors.shape == teacher.shape:
                loss = loss + losses.direction_distillation(vectors, teacher)
            return loss
        case Partners():
            first, second = vectors.chunk(2)
            return losses.multiple_negatives(first, second)
        case Rated():
            first, second = vectors.chunk(2)
            ratings = examples.score[list(picked)].to(vectors.device)
            return losses.cosent((first * second).sum(dim=1), ratings)


def tokens_of(examples: Examples, picked: Sequence[int]) -> list[Tensor]:
    """Return the ids of some examples; of pairs all first texts, then all second ones."""
    if isinstance(examples, Distances):
        return [examples.tokens[i] for i in picked]
    return [examples.first[i] for i in picked] + [examples.second[i] for i in picked]
