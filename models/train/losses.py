"""Losses of elastic training, as pure functions with their sources."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def task_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the summed cross-entropy of one task's images.

    Summed, not averaged, so that adding up the tasks of a batch weighs each image alike.

    Args:
        logits: Shape [batch, classes].
        labels: int64, shape [batch].
        label_smoothing: Probability spread over all classes, 0..1.

    Returns:
        Scalar.
    """
    return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing)


def configuration_invariance(narrow: Tensor, full: Tensor) -> Tensor:
    """Pull a narrower encoder's feature to the full-width encoder's (CI-KD).

    The leading channels are compared, since those are what a decoder reads from either. Each
    channel's mean over the batch is taken off first: what must agree is how the feature varies
    with the image. Without that, features that do not depend on the image match best, and since
    the subnets share their weights, the full-width one then hardly learns (seen in training). The
    error is relative to the target's, so that the loss does not depend on the scale of the
    features. The gradient stops at the full-width feature.

    Args:
        narrow: Feature of a narrower encoder, shape [batch, channels, height, width].
        full: Feature at full width, shape [batch, max_channels >= channels, height, width].

    Returns:
        Scalar: squared distance over the target's variance, 1 for a constant feature.

    Source: Aich et al. 2023, Efficient Controllable Multi-Task Architectures, arXiv 2308.11744,
    for the principle; the paper's exact distance is not public, this one is ours.
    """
    target = _centred(full[:, : narrow.shape[1]].detach())
    error = (_centred(narrow) - target).square().sum()
    return error / target.square().sum().clamp_min(1e-12)


def _centred(feature: Tensor) -> Tensor:
    return feature - feature.mean(dim=(0, 2, 3), keepdim=True)


def multiple_negatives(first: Tensor, second: Tensor, scale: float = 20.0) -> Tensor:
    """Return the cross-entropy of finding each text's partner among all partners of the batch.

    Args:
        first: Unit vectors, shape [batch, dim].
        second: Unit vectors of the partners, same shape; row i belongs to row i.
        scale: Inverse temperature.

    Returns:
        Scalar, mean over the batch.

    Source: Henderson et al. 2017, Efficient Natural Language Response Suggestion, arXiv
    1705.00652, section 4.4.
    """
    scores = scale * first @ second.T
    return F.cross_entropy(scores, torch.arange(len(first), device=first.device))


def cosent(cosines: Tensor, labels: Tensor, scale: float = 20.0) -> Tensor:
    """Return a ranking loss over labelled pairs: a pair rated higher should have a larger cosine.

    Args:
        cosines: Of each pair, shape [pairs].
        labels: Ratings on any scale, shape [pairs].
        scale: Inverse temperature.

    Returns:
        Scalar: log(1 + sum of exp(scale (cos_j - cos_i)) over all i rated above j).

    Source: Su 2022, CoSENT, kexue.fm/archives/8847.
    """
    difference = scale * (cosines[None, :] - cosines[:, None])
    is_above = labels[:, None] > labels[None, :]
    terms = difference.masked_fill(~is_above, -torch.inf).flatten()
    return torch.cat((terms.new_zeros(1), terms)).logsumexp(0)


def similarity_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared error of the batch's cosines.

    The widths may differ, so a shallow or short vector can be taught by a full one.

    Args:
        student: Unit vectors, shape [batch, dim].
        teacher: Unit vectors of the same texts, shape [batch, any dim]; no gradient reaches them.

    Source: Tung and Mori 2019, Similarity-Preserving Knowledge Distillation, arXiv 1907.09682, on
    cosines.
    """
    target = teacher.detach() @ teacher.detach().T
    own = 1 - torch.eye(len(student), device=student.device)  # the diagonal is always 1
    return ((student @ student.T - target).square() * own).sum() / own.sum()


def direction_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean of 1 - cosine between each vector and its teacher's, same widths."""
    return 1 - (student * teacher.detach()).sum(dim=1).mean()


def feature_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the KL divergence of softmax over feature dimensions, times temperature squared.

    As first released, the gradient reaches the teacher too.

    Args:
        student: Pooled vectors of an earlier layer, shape [batch, dim].
        teacher: Of the last layer, same shape.
        temperature: Above 0.

    Source: Li et al. 2024, 2D Matryoshka Sentence Embeddings, arXiv 2402.14776, as released.
    """
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    divergence = F.kl_div(log_student, log_teacher, log_target=True, reduction="batchmean")
    return divergence * temperature**2


def score_divergence(student: Tensor, teacher: Tensor, scale: float = 20.0) -> Tensor:
    """Return the KL divergence of each text's distribution over the batch's other texts.

    Args:
        student: Unit vectors, shape [batch, dim].
        teacher: Unit vectors of the full model, shape [batch, any dim]; no gradient reaches them.
        scale: Inverse temperature.

    Source: Wang et al. 2024, Starbucks, arXiv 2410.13230, which distils in-batch scores.
    """
    itself = torch.eye(len(student), dtype=torch.bool, device=student.device)
    log_student = (scale * student @ student.T).masked_fill(itself, -1e4).log_softmax(1)
    fixed = teacher.detach()
    log_teacher = (scale * fixed @ fixed.T).masked_fill(itself, -1e4).log_softmax(1)
    return F.kl_div(log_student, log_teacher, log_target=True, reduction="batchmean")
