from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.families.exits import ExitsConfig
from models.families.slimmable import Slimmable
from models.nn.blocks import SizeTable, UnitChoice, UnitConfig
from models.nn.calibrated import seen
from models.nn.conv_unit import ConvUnit
from models.nn.layers import SlimConv2d, SlimLinear
from models.nn.quantized import ROUNDED, Ranges, int8_conv, int8_copy, linear, rounded
from models.run.agreement import check_agreement
from models.run.chain import bound_to
from models.variants import added_bytes, build
from tests.tiny import tiny_model
from tests.tiny_text import exits_config, tiny_exits


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_a_product_of_rounded_values_is_that_of_the_whole_numbers_times_both_steps() -> None:
    x, weight, bias = random(5, 16), random(8, 16), random(8)
    whole, steps = rounded(weight)
    step = x.abs().amax(1, keepdim=True) / 127
    sums = torch.round(x / step).double() @ whole.double().t()
    expected = (sums * steps.double() * step.double() + bias).float()
    found = linear(x, whole, bias, steps)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert float((found - linear(x, weight, bias, None)).norm() / found.norm()) < 0.02


def test_a_row_is_rounded_by_itself() -> None:
    x, (weight, steps) = random(5, 16), rounded(random(8, 16))
    together = linear(torch.cat((x, 1000 * x)), weight, None, steps)
    assert torch.equal(together[:5], linear(x, weight, None, steps))
    assert torch.equal(linear(torch.zeros(2, 16), weight, None, steps), torch.zeros(2, 8))
    assert not linear(torch.full((1, 16), torch.nan), weight, None, steps).isfinite().any()


def test_a_rounded_layer_is_a_quarter_and_sliced_like_the_whole_one() -> None:
    layer = SlimLinear(16, 8).requires_grad_(False)
    small = int8_copy(layer)
    assert layer.weight.dtype == torch.float32
    assert small.weight.nbytes * 4 == layer.weight.nbytes
    assert small.bias is layer.bias
    x = random(3, 12)
    assert torch.equal(small(x, 4), small(x)[:, :4])


def test_a_variant_shares_all_but_the_layers_linear_weights() -> None:
    model = tiny_exits(bits=(8, 32))
    few = build(model, (8,))
    assert few.embedding is model.embedding  # type: ignore[attr-defined]
    assert few.exits is model.exits  # type: ignore[attr-defined]
    linear_bytes = sum(
        p.nbytes for n, p in model.layers.named_parameters() if p.ndim > 1 and "bias" not in n
    )
    outputs = sum(p.nbytes for n, p in few.named_parameters() if n.endswith("steps"))  # type: ignore[attr-defined]
    assert added_bytes(few, model) == linear_bytes // 4 + outputs  # type: ignore[arg-type]


def test_to_forget_a_variant_is_to_keep_what_the_model_runs_by_itself() -> None:
    model = tiny_exits(bits=(8, 32))
    variant = build(model, (8,))
    assert isinstance(variant, nn.Module)
    own, rounded_ones = (
        [step.run for step in one.plan(model.space.largest | {"bits": bits}, {"text": (4,)})]
        for one, bits in ((model, 32), (variant, 8))
    )
    of_both, of_variant = bound_to(variant), bound_to(variant, beside=model)
    assert any(map(of_both, own))  # the embedding is both's
    assert not any(map(of_variant, own))
    num_layers = len(model.layers)
    assert [of_variant(run) for run in rounded_ones] == [False, *[True] * num_layers, False]


def test_bits_that_cannot_be_had_are_refused() -> None:
    with pytest.raises(ValueError, match=r"bits=\[4, 32\] must be one of \[\[32\], \[8, 32\]\]"):
        exits_config("post", bits=(4, 32))
    assert ExitsConfig.bits == (32,)


def test_results_agree_within_the_tolerance_of_their_steps() -> None:
    x = random(4, 8)
    check_agreement(x + 1e-6, x, 0.0)
    check_agreement(x * (1 + 0.9 * ROUNDED), x, ROUNDED)
    with pytest.raises(AssertionError, match=r"rows differ by up to 0\.08 of their length"):
        check_agreement(x * (1 + 2 * ROUNDED), x, ROUNDED)
    for wrong in (x * torch.nan, x[:2]):
        with pytest.raises(AssertionError):
            check_agreement(wrong, x, ROUNDED)


def calibrated(x: torch.Tensor, weight: torch.Tensor, stride: int) -> tuple[Ranges, torch.Tensor]:
    expected = F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)
    low, high = x.aminmax()
    return Ranges(min(0.0, float(low)), float(high), float(expected.abs().max())), expected


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1), (1, 2)])
@pytest.mark.parametrize("is_positive", [True, False])
def test_a_convolution_of_rounded_values_is_that_of_the_whole_numbers(
    kernel: int, stride: int, is_positive: bool
) -> None:
    x, weight = random(3, 8, 5, 7), random(16, 8, kernel, kernel)
    x = x.relu() if is_positive else x
    whole, steps = rounded(weight, inner=3)
    ranges, expected = calibrated(x, weight, stride)
    step, zero, out_step = ranges.steps()
    assert zero == 0 or not is_positive
    numbers = ((x / step).round() + zero).clamp(0, 255) - zero
    sums = F.conv2d(numbers.double(), whole.double(), stride=stride, padding=kernel // 2)
    levels = (sums * (steps.double() * step / out_step)[:, None, None]).round().clamp(-128, 127)
    found = int8_conv(x, whole, steps, None, *ranges, False, stride, kernel // 2, 1)
    # A sum in the middle between two levels may go to either.
    assert float((found / out_step - levels).abs().max()) <= 1 + 1e-4
    assert float((found / out_step - levels).abs().mean()) < 1e-3
    assert float((found - expected).norm() / expected.norm()) < 0.03
    assert (
        torch.empty_like(found).shape
        == int8_conv(
            *(one.to("meta") for one in (x, whole, steps)),
            None,
            *ranges,
            False,
            stride,
            kernel // 2,
            1,
        ).shape
    )


def test_an_image_is_rounded_by_itself_and_what_is_out_of_range_stays_at_its_end() -> None:
    x, weight = random(3, 8, 5, 5), random(16, 8, 3, 3)
    whole, steps = rounded(weight, inner=3)
    ranges, _ = calibrated(x, weight, 1)
    alone = int8_conv(x, whole, steps, None, *ranges, False, 1, 1, 1)
    together = int8_conv(torch.cat((1000 * x, x)), whole, steps, None, *ranges, False, 1, 1, 1)
    assert torch.equal(together[3:], alone)
    assert float(together.abs().max()) <= 129 / 127 * ranges.most


ONE = UnitChoice(8, 16, 3)


def odd_unit() -> tuple[ConvUnit, torch.Tensor, torch.Tensor]:
    """Return a calibrated unit whose scales are of any sign and size, what it takes and gives."""
    config = UnitConfig(SizeTable((16,)), SizeTable((3,)), activation="relu6")
    unit, x = ConvUnit(config, 8, [ONE], 1).requires_grad_(False), random(4, 8, 6, 6).relu()
    unit.affine[0] = torch.stack((random(16), 1 + random(16).abs()))
    unit.affine[0, 0, :3] = torch.tensor([0.0, 1e-9, -1e-9])  # nothing is left of the weights
    unit.statistics[0] = torch.stack((random(16), random(16).abs() + 0.5))
    with seen(nn.ModuleDict({"unit": unit})) as ranges:
        expected = F.relu6(unit(x, ONE, 0, 1e-5))
    unit.ranges = ranges["unit"]
    return unit, x, expected


def test_a_normalisation_with_any_scales_is_part_of_the_rounded_convolution() -> None:
    unit, x, expected = odd_unit()
    assert unit.ranges is not None
    assert unit.ranges.most == float(expected.max()) <= 6
    few = int8_copy(unit)
    assert few.affine is unit.affine
    found = few(x, ONE, 0, 1e-5)
    assert float(found.min()) >= 0
    assert float((found - expected).norm() / expected.norm()) < 0.03
    level = unit.ranges.steps(is_positive=True)[2]
    torch.testing.assert_close(found[:, :3], expected[:, :3], atol=level, rtol=0)


def test_a_rounded_convolution_is_sliced_like_the_whole_one() -> None:
    x, conv = random(2, 8, 5, 5), SlimConv2d(16, 24, 3).requires_grad_(False)
    conv.ranges, _ = calibrated(x, conv.weight[:, :8], 1)
    small = int8_copy(conv)
    assert small.weight.nbytes * 4 == conv.weight.nbytes
    assert conv.steps is None
    assert torch.equal(small(x, 16), small(x, 24)[:, :16])


def test_an_image_model_needs_ranges_for_its_fewer_bits() -> None:
    config = tiny_model().config
    with pytest.raises(ValueError, match=r"ranges lacks 'stem', which bits=\[8, 32\] needs"):
        Slimmable("tiny", replace(config, bits=(8, 32)))
    with pytest.raises(ValueError, match=r"ranges\.stem=\[1\.0, 2\.0, 3\.0\] must enclose 0"):
        replace(config, ranges={"stem": (1.0, 2.0, 3.0)})
