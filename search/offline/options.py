"""What a run of `rheostat elasticize` goes by, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from models.elasticize.ranking import Ranking
from models.families.pruned import Pruned

RANKINGS: tuple[Ranking, ...] = get_args(Ranking)
KEEP = (0.25, 0.4, 0.5, 0.6, 0.8)


@dataclass(frozen=True)
class RunOptions:
    """What a run goes by.

    Attributes:
        seconds: That it may take; it ends with the best so far.
        keep: Shares of the layers' MACs, ascending, under 1.
        rankings: To be compared.
        seed: Of all that is drawn.
        trials: Most cuts measured per budget; None for as many as there is time for.
    """

    seconds: float
    keep: tuple[float, ...] = KEEP
    rankings: tuple[Ranking, ...] = RANKINGS
    seed: int = 0
    trials: int | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no sense; ValueError naming the field."""
        keep = list(self.keep)
        if keep != sorted(set(keep)) or not keep or not 0 < keep[0] <= keep[-1] < 1:
            raise ValueError(f"keep={keep} must ascend, over 0 and under 1")
        if not self.rankings or not set(self.rankings) <= set(RANKINGS):
            raise ValueError(f"rankings={list(self.rankings)} must be of {list(RANKINGS)}")
        if not self.seconds > 0:
            raise ValueError(f"seconds={self.seconds} must be above 0")


@dataclass
class FoundCuts:
    """What a run found, whatever it made elastic.

    Attributes:
        ranking: That won.
        rankings: Score by ranking, at one cut.
        trials: Cuts measured, per budget.
        fitted_on: Tokens or images that the cuts were fitted on at last.
        seconds: What each part of the run took.
    """

    ranking: str
    rankings: dict[str, float]
    trials: dict[float, int]
    fitted_on: int
    seconds: dict[str, float]


@dataclass
class Found(FoundCuts):
    """What a run over a transformer found.

    Attributes:
        model: The elastic model.
        length: Tokens at which shares of MACs are counted.
    """

    model: Pruned
    length: int


def named(names: str | None) -> tuple[Ranking, ...]:
    """Return the rankings of some names, parted by commas; all for None.

    Raises:
        ValueError: If there is no such ranking.
    """
    if names is None:
        return RANKINGS
    by_name = {str(ranking): ranking for ranking in RANKINGS}
    if unknown := [name for name in names.split(",") if name not in by_name]:
        raise ValueError(f"rankings={names!r}: {unknown[0]!r} must be one of {list(by_name)}")
    return tuple(by_name[name] for name in names.split(","))
