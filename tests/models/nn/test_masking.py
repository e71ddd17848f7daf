"""Leaving units out is masking them only where the mask stands after all that makes them not zero.

Rankings mask, cuts slice: the two agree where an activation gives zero for zero, and do not where a
normalisation adds its shift after the mask.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.elasticize.channels import groups_of, with_cuts
from models.nn.architecture import Activation, TransformerConfig
from models.nn.blocks import Activation as ConvActivation
from models.nn.blocks import SizeTable, UnitChoice, UnitConfig
from models.nn.conv_unit import ConvUnit
from models.nn.transformer import FeedForward
from models.space import Subnet
from tests.models.elasticize.test_channels import NETWORKS, answers, model_of
from tests.tiny_text import randomise


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", get_args(Activation))
def test_units_that_are_masked_before_the_activation_are_left_out(
    activation: Activation, gated: bool
) -> None:
    """Trap: a mask is a slice only if the activation gives zero for zero."""
    config = TransformerConfig(
        vocab_size=8,
        hidden=6,
        layers=1,
        heads=1,
        kv_heads=1,
        head_dim=6,
        ffn=10,
        max_positions=4,
        activation=activation,
        gated=gated,
    )
    ffn = FeedForward(config)
    randomise(ffn)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    kept = 4
    with torch.no_grad():
        sliced = F.linear(ffn(x, kept), ffn.down.weight[:, :kept], ffn.down.bias)
        for linear in (ffn.up, ffn.gate):
            if linear is not None:
                linear.weight[kept:] = 0
                linear.bias[kept:] = 0
        masked = ffn.down(ffn(x, config.ffn))
    torch.testing.assert_close(masked, sliced)


@pytest.mark.parametrize("activation", get_args(ConvActivation))
def test_a_channel_that_is_zero_stays_zero_after_every_activation(
    activation: ConvActivation,
) -> None:
    unit = ConvUnit(UnitConfig(SizeTable((4,)), activation=activation), 3, [], 1)
    zeros: Tensor = torch.zeros(2, 4, 5, 5)
    assert torch.equal(unit.activate(UnitChoice(3, 4, 1), zeros), zeros)


def test_a_channel_that_is_masked_before_a_depthwise_unit_is_not_left_out(tmp_path: Path) -> None:
    """Trap: the shift of the normalisation after it makes it something again, so cuts slice."""
    model = model_of(tmp_path, NETWORKS["mobilenet"])
    groups = groups_of(model)
    group = next(group for group in groups if group.through and group.reader is not None)
    half = group.size // 2
    sizes = tuple(half if one is group else one.size for one in groups)
    sliced = answers(with_cuts(model, "keep", groups, {0.5: sizes}), Subnet({"keep": 0.5}))
    maker = model.block(group.block).unit(group.unit)
    with torch.no_grad():
        maker.affine[:, :, half:] = 0  # scale and shift: the channel is zero
    masked = answers(model)
    assert (masked - sliced).abs().max() > 1e-3
    after = model.block(group.block).unit(group.through[-1])
    with torch.no_grad():
        after.affine[:, :, half:] = 0
    torch.testing.assert_close(answers(model), sliced, atol=1e-4, rtol=1e-4)
