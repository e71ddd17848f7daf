"""Losses of elastic training, as pure functions with their sources."""

from __future__ import annotations

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
