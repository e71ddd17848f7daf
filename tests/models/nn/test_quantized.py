from __future__ import annotations

import pytest
import torch
from torch import nn

from models.families.exits import ExitsConfig
from models.nn.layers import SlimLinear
from models.nn.quantized import ROUNDED, int8_copy, linear, rounded
from models.run.agreement import check_agreement
from models.run.chain import bound_to
from models.variants import added_bytes, build
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
