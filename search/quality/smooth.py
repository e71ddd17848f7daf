"""Expected scores: measured cells with their noise smoothed out.

A cell's score is a mean over a few hundred inputs, so it is off by its standard error; a search for
the best of many cells finds those that were lucky. What differs between cells is mostly described
by few numbers: one effect per value of every axis. Averaged over all cells with that value, an
effect has a small part of a cell's noise; averaged over the tasks as well, each measured on inputs
of its own, a smaller one still; and as wider is known to be no worse, it must not fall along its
axis. So each task's effects are shrunk towards those of all tasks, and its cells towards the sum of
its effects, each the further the less of what is lost repeats on other inputs.

How far is decided by splitting the *inputs*, not the cells: a task's cells are measured on the same
inputs, so that a cell left out is predicted well by the others' shared luck. One half of the inputs
predicts the other half's scores. A half has twice the noise of the whole, which is allowed for.

Sources: Efron and Morris 1973, Stein's Estimation Rule and Its Competitors, JASA 68(341), for
shrinking; Ayer et al. 1955, Annals of Mathematical Statistics 26(4), for pooling what falls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from search.quality.table import FloatArray

Effects = dict[str, list[FloatArray]]  # per task and axis: of each value, shape [values]
NUM_SPLITS = 8
_TINY = 1e-12


def smooth(
    outcomes: Mapping[str, NDArray[np.bool_] | FloatArray], seed: int = 0
) -> dict[str, FloatArray]:
    """Return the expected score of each cell.

    Args:
        outcomes: Per task, what each input adds to a cell's score, which is the mean: whether it
            was right, or minus its error; the more, the better. Shape [inputs, *axes], one array
            axis for each of the model's, its values cheapest first. The tasks' axes are the same
            as far as they agree in position and length. Scores of all tasks have one unit.
        seed: Of the splits.

    Returns:
        Per task, shape [*axes].
    """
    rng = np.random.default_rng(seed)
    halves = [pair for _ in range(NUM_SPLITS) for pair in _split(outcomes, rng)]
    effects = [(_effects(one), _effects(other)) for one, other in halves]
    common = _share([(_pooled(one), one, other) for one, other in effects])
    fits = [(_fit(one, common), one, other) for one, other in halves]
    scores: dict[str, FloatArray] = {task: right.mean(axis=0) for task, right in outcomes.items()}
    fitted = _fit(scores, _of_all_inputs(common))
    expected = {}
    for task, score in scores.items():
        # As if a task's cells were its one axis.
        cells = [tuple({task: [part[task]]} for part in triple) for triple in fits]
        share = _of_all_inputs(_share(cells))
        expected[task] = score + share * (fitted[task] - score)
    return expected


def with_largest(
    scores: Mapping[str, FloatArray], expected: Mapping[str, FloatArray]
) -> dict[str, FloatArray]:
    """Return expected scores in which the largest subnet's are as measured.

    It is compared with all others and picked by nobody, so it is not the luckiest of many. A sum of
    effects pulls it down, as what the widest values add together is more than they add alone; what
    others keep of it is then told too high. How much it lies above its fit is taken from all tasks
    together: that of one is mostly luck.

    Args:
        scores: As measured, by task; the largest subnet's last.
        expected: From `smooth`; of scores of which more is better.
    """
    measured = sum(float(score.flat[-1]) for score in scores.values())
    fitted = sum(float(expected[task].flat[-1]) for task in scores)
    found = {}
    for task, score in scores.items():
        largest = float(score.flat[-1])
        kept = expected[task] * (fitted / measured) / max(float(expected[task].flat[-1]), _TINY)
        found[task] = kept * largest
        found[task].flat[-1] = largest
    return found


def rising(values: Sequence[float]) -> list[float]:
    """Return the nearest values, in squares, that never fall."""
    pools: list[tuple[float, int]] = []  # mean and number of values
    for value in values:
        mean, count = value, 1
        while pools and pools[-1][0] >= mean:
            before, number = pools.pop()
            mean, count = (before * number + mean * count) / (number + count), number + count
        pools.append((mean, count))
    return [mean for mean, count in pools for _ in range(count)]


def _split(
    outcomes: Mapping[str, NDArray[np.bool_] | FloatArray], rng: np.random.Generator
) -> list[tuple[dict[str, FloatArray], dict[str, FloatArray]]]:
    """Return the scores on two random halves of each task's inputs, both ways round."""
    one, other = {}, {}
    for task, right in outcomes.items():
        order = rng.permutation(len(right))
        size = max(1, len(right) // 2)  # a single input is both halves: nothing is learnt
        one[task] = right[order[:size]].mean(axis=0)
        other[task] = right[order[-size:]].mean(axis=0)
    return [(one, other), (other, one)]


def _effects(scores: Mapping[str, FloatArray]) -> Effects:
    """Return what each value of each axis adds to the mean, by least squares."""
    return {
        # The cells are a full product, so that each axis's effects are its own means.
        task: [
            score.mean(axis=tuple(a for a in range(score.ndim) if a != axis)) - score.mean()
            for axis in range(score.ndim)
        ]
        for task, score in scores.items()
    }


def _pooled(effects: Effects) -> Effects:
    """Return the mean over the tasks of each axis's effects."""
    groups: dict[tuple[int, int], list[FloatArray]] = {}
    for own in effects.values():
        for axis, effect in enumerate(own):
            groups.setdefault((axis, len(effect)), []).append(effect)
    means = {key: np.mean(group, axis=0) for key, group in groups.items()}
    return {
        task: [means[axis, len(effect)] for axis, effect in enumerate(own)]
        for task, own in effects.items()
    }


def _fit(scores: Mapping[str, FloatArray], share: float) -> dict[str, FloatArray]:
    """Return the sums of rising effects, taken towards those of all tasks by a share."""
    own = _effects(scores)
    pooled = _pooled(own)
    fitted = {}
    for task, score in scores.items():
        fitted[task] = np.full(score.shape, score.mean())
        for axis, (effect, common) in enumerate(zip(own[task], pooled[task], strict=True)):
            rise = np.array(rising((effect + share * (common - effect)).tolist()))
            fitted[task] += np.expand_dims(rise, [a for a in range(score.ndim) if a != axis])
    return fitted


def _share(triples: Sequence[tuple[Effects, ...]]) -> float:
    """Return how far to go from one half's numbers to their fit to come nearest the other half's.

    Args:
        triples: The fit of one half's numbers, these numbers, and the other half's.
    """
    along = across = 0.0
    for fits, ones, others in triples:
        for task, fit in fits.items():
            for aim, one, other in zip(fit, ones[task], others[task], strict=True):
                along += float(((aim - one) * (other - one)).sum())
                across += float(((aim - one) ** 2).sum())
    return min(max(along / across, 0.0), 1.0) if across > 0 else 0.0


def _of_all_inputs(share: float) -> float:
    """Return the share for all inputs from that for half of them.

    The best share is noise / (noise + what truly differs), and all inputs have half the noise.
    """
    return share / (2 - share)
