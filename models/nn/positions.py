"""Positions that act on attention: rotary angles and biases by distance."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def rotary_tables(positions: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of rotary positions, each of shape [positions, head_dim].

    Source: Su et al. 2021, RoFormer, arXiv 2104.09864; the halves are laid out as in the public
    checkpoints, not interleaved as in the paper.
    """
    frequency = 1.0 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
    angle = torch.outer(torch.arange(positions).float(), frequency).repeat(1, 2)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn ``x``, shape [tokens, heads, head_dim], by its positions' angles."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


def relative_buckets(distance: Tensor, num_buckets: int, max_distance: int = 128) -> Tensor:
    """Return the bucket of each signed distance (key minus query).

    Half of the buckets are for keys after the query. In each half, short distances have a bucket
    each and longer ones share buckets of growing width.

    Source: Raffel et al. 2020, T5, arXiv 1910.10683, section 2.1, as MPNet uses it.
    """
    half = num_buckets // 2
    exact = half // 2
    away = distance.abs()
    ratio = (away.clamp_min(1).float() / exact).log() / math.log(max_distance / exact)
    far = (exact + (ratio * (half - exact)).long()).clamp_max(half - 1)
    return half * (distance > 0).long() + torch.where(away < exact, away, far)
