"""What answers about images are trained on and judged by, task by task, as pure functions.

Every score is a mean of ratios of sums over images: of classes right over images, of pixels in the
intersection over those in the union, of squared errors over pixels. So a score of many images
follows from a few numbers of each (`Ratios`), and so does its standard error.

Sources: Everingham et al. 2010, The Pascal Visual Object Classes Challenge, for intersection over
union summed over all images; Eigen et al. 2014, arXiv 1406.2283, for the root mean square error of
depth; Fouhey et al. 2013, Data-Driven 3D Primitives, for the mean angular error of normals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from models.tasks import Metric, Task
from models.train.vision import UNKNOWN, VOID, is_known

_MOST_WEIGHT = 10.0
_TINY = 1e-12


class Ratios(NamedTuple):
    """Of each image, what it adds to the ratios whose mean is the score.

    Attributes:
        tops: Shape [images, ratios].
        bottoms: Likewise; 0 where an image says nothing.
    """

    tops: Tensor
    bottoms: Tensor


class Scale(NamedTuple):
    """What a loss is measured in, from the truth of a training split.

    Attributes:
        middle: Mean of numbers, shape [channels, 1, 1]; 0 for classes.
        spread: Their standard deviation, likewise; 1 for classes.
        weights: Of classes in the loss, shape [labels]; 1 for all but edges.
    """

    middle: Tensor
    spread: Tensor
    weights: Tensor


Judge: TypeAlias = Callable[[Tensor, Tensor], Ratios]


def scale_of(task: Task, truth: Tensor) -> Scale:
    """Return what a task's loss is measured in.

    The few pixels that are edges weigh more, by the root of how few they are: whole balance makes
    edges thick, none makes them vanish.

    Args:
        task: The task.
        truth: Of a training split, as `models.train.vision.Pictures` has it.
    """
    weights = torch.ones(max(1, len(task.labels)))
    if truth.is_floating_point():
        values = truth.movedim(1, 0).flatten(1)
        known = values.isfinite().all(dim=0)
        spread, middle = torch.std_mean(values[:, known].double(), dim=1)
        shape = (-1, 1, 1)
        return Scale(
            middle.float().view(shape), spread.float().clamp_min(_TINY).view(shape), weights
        )
    if task.metric == "f1":
        counts = torch.bincount(truth[is_known(truth)].long(), minlength=2).double()
        rare = (counts[0] / counts[1].clamp_min(1)).sqrt()
        weights[1] = float(rare.clamp(1, _MOST_WEIGHT))
    return Scale(torch.zeros(1, 1, 1), torch.ones(1, 1, 1), weights)


def vision_loss(
    task: Task, answer: Tensor, truth: Tensor, scale: Scale, smoothing: float = 0.0
) -> Tensor:
    """Return the mean loss over what is known; 0 where nothing is.

    Classes: cross-entropy. Directions: 1 less the cosine. Other numbers: Huber's loss of the error
    over the spread of the truth.

    Args:
        task: The task.
        answer: Shape [batch, channels, height, width], or [batch, labels] of classes of images.
        truth: As `models.train.vision.Pictures` has it.
        scale: From `scale_of`.
        smoothing: Probability spread over all classes of an image, 0..1.

    Returns:
        Scalar.
    """
    known = is_known(truth)
    if not known.any():
        return answer.sum() * 0
    if not truth.is_floating_point():
        void = VOID if task.kind == "map" else UNKNOWN
        spread = smoothing if task.kind == "classes" else 0.0
        weights = scale.weights.to(answer)
        return F.cross_entropy(
            answer, truth.long(), weights, ignore_index=void, label_smoothing=spread
        )
    right = torch.where(known[:, None], truth, 0.0)
    if task.metric == "mean_angular_error":
        each = 1 - (answer * right).sum(dim=1)
    else:
        error = (answer - right) / scale.spread.to(answer)
        each = F.huber_loss(error, torch.zeros_like(error), reduction="none").mean(dim=1)
    return each[known].mean()


def judge_of(task: Task) -> Judge:
    """Return what compares answers with the truth.

    It takes answers of shape [images, ...] and the truth of those images, and raises ValueError if
    their shapes do not go together.

    Raises:
        ValueError: If the metric is another.
    """
    if task.metric not in _JUDGES:
        raise ValueError(
            f"task {task.name!r}: metric={task.metric!r} must be one of {sorted(_JUDGES)}"
        )
    return _JUDGES[task.metric]


def _right(logits: Tensor, truth: Tensor) -> Ratios:
    known = (truth != UNKNOWN).double()
    return Ratios(((logits.argmax(1) == truth) * known)[:, None], known[:, None])


def _intersections(logits: Tensor, truth: Tensor) -> Ratios:
    """Return of each class the pixels in both, and in either."""
    _check(logits[:, 0], truth)
    images, labels = logits.shape[:2]
    confused = _confused(logits, truth).view(images, labels, labels).double()
    both = confused.diagonal(dim1=1, dim2=2)
    return Ratios(both, confused.sum(1) + confused.sum(2) - both)


def _f1(logits: Tensor, truth: Tensor) -> Ratios:
    """Return twice the edges found, and edges found or there, one by one."""
    _check(logits[:, 0], truth)
    confused = _confused(logits, truth).view(-1, 2, 2).double()
    twice = 2 * confused[:, 1, 1]
    return Ratios(twice[:, None], (twice + confused[:, 0, 1] + confused[:, 1, 0])[:, None])


def _confused(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the pixels of each image by true class and found class, flat."""
    images, labels = logits.shape[:2]
    found, right = logits.argmax(1).flatten(1), truth.flatten(1).long()
    first = labels * labels * torch.arange(images, device=logits.device)[:, None]
    place = (first + labels * right + found)[right != VOID]
    return torch.bincount(place, minlength=images * labels * labels)


def _squares(found: Tensor, truth: Tensor) -> Ratios:
    """Return squared errors, summed over what is known of maps, and averaged over other answers."""
    _check(found, truth)
    square = (found - truth).double().square()
    if found.ndim < 4:
        each = square.reshape(len(found), -1).mean(1, keepdim=True)
        return Ratios(each, torch.ones_like(each))
    known = is_known(truth)
    return _summed(square.mean(dim=1), known)


def _angles(found: Tensor, truth: Tensor) -> Ratios:
    """Return degrees, summed over what is known."""
    _check(found, truth)
    cosine = (found * truth).sum(dim=1).double()
    return _summed(cosine.clamp(-1, 1).acos().rad2deg(), is_known(truth))


def _summed(each: Tensor, known: Tensor) -> Ratios:
    each = torch.where(known, each, 0.0)
    return Ratios(
        each.flatten(1).sum(1, keepdim=True), known.flatten(1).sum(1, keepdim=True).double()
    )


def _check(found: Tensor, truth: Tensor) -> None:
    if found.shape != truth.shape:
        raise ValueError(f"answers of shape {list(found.shape)}, truth of {list(truth.shape)}")


_JUDGES: dict[Metric, Judge] = {
    "accuracy": _right,
    "miou": _intersections,
    "f1": _f1,
    "rmse": _squares,
    "mean_angular_error": _angles,
}


def joined(several: Sequence[Ratios]) -> Ratios:
    """Return the ratios of the images of several batches, one batch after the other."""
    return Ratios(*(torch.cat(own) for own in zip(*several, strict=True)))


def parts_of(ratios: Ratios) -> Tensor:
    """Return numbers of each image whose mean is the mean of the ratios of sums.

    Each is the score and what the image moves it by, to first order, so that their spread over the
    root of their number is the standard error of the score.

    Args:
        ratios: Tops and bottoms of shape [images, ..., ratios].

    Returns:
        Shape [images, ...]. Ratios without a bottom count for nothing.

    Source: Cochran 1977, Sampling Techniques, section 6.3, for the variance of a ratio.
    """
    images = len(ratios.tops)
    total = ratios.bottoms.sum(dim=0)
    there = total > 0
    ratio = ratios.tops.sum(dim=0) / total.clamp_min(_TINY)
    moved = (ratios.tops - ratio * ratios.bottoms) * (images / total.clamp_min(_TINY))
    parts = torch.where(there, ratio + moved, 0.0)
    return parts.sum(dim=-1) / there.sum(dim=-1).clamp_min(1)


def score_of(task: Task, parts: Tensor) -> Tensor:
    """Return the score of a task from `parts_of`, the mean over the first dimension."""
    mean = parts.mean(dim=0)
    return mean.sqrt() if task.metric == "rmse" else mean
