from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.families.exits import Exits
from models.nn.transformer import Layer
from models.train.ranking import Importance, first_order_importance, rank_units
from tests.tiny_text import ARCHITECTURES, embed, tiny_exits, token_rows

EVERY = pytest.mark.parametrize("architecture", list(ARCHITECTURES))
TARGET = F.normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(3)), dim=1)


def random_importance(model: Exits) -> list[Importance]:
    generator = torch.Generator().manual_seed(4)
    encoder = model.config.encoder
    return [
        Importance(*(torch.rand(n, generator=generator) for n in (encoder.kv_heads, encoder.ffn)))
        for _ in range(encoder.layers)
    ]


def loss_of(model: Exits) -> Tensor:
    return (embed(model, token_rows(), 4, 16) * TARGET).sum()


@EVERY
def test_ranking_changes_no_output_at_full_width(architecture: str) -> None:
    model = tiny_exits(architecture)
    rows = token_rows()
    before = [embed(model, rows, depth, 16) for depth in model.config.depths]
    narrow = embed(model, rows, 4, 16, 0.5, 0.5)
    rank_units(model, random_importance(model))
    for depth, vectors in zip(model.config.depths, before, strict=True):
        torch.testing.assert_close(embed(model, rows, depth, 16), vectors, atol=1e-6, rtol=0)
    assert not torch.allclose(embed(model, rows, 4, 16, 0.5, 0.5), narrow, atol=1e-3)


@EVERY
def test_a_slice_after_ranking_has_the_most_important_parts(architecture: str) -> None:
    """Against the unranked model in which the other parts are switched off."""
    model, masked = tiny_exits(architecture), tiny_exits(architecture)
    importance = random_importance(model)
    rank_units(model, importance)
    for layer, (groups, units) in zip(masked.layers, importance, strict=True):
        assert isinstance(layer, Layer)
        worst = groups.argsort()[: len(groups) // 2]
        out = layer.attention.out.weight
        out.view(len(out), len(groups), -1)[:, worst] = 0
        layer.ffn.down.weight[:, units.argsort()[: len(units) // 2]] = 0
    rows = token_rows()
    expected = embed(masked, rows, 4, 16)
    found = embed(model, rows, 4, 16, 0.5, 0.5)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_equals_keep_their_order() -> None:
    model = tiny_exits()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rank_units(model, [Importance(torch.ones(4), torch.ones(24))] * 4)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@EVERY
def test_first_order_importance_is_the_gradient_of_a_mask(architecture: str) -> None:
    """Against finite differences: each head, and each unit, is made a little stronger."""
    model = tiny_exits(architecture, exit_norm="none").double().requires_grad_(True)
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    found = first_order_importance(model)
    encoder = model.config.encoder
    model.requires_grad_(False)
    layer = model.layers[1]
    assert isinstance(layer, Layer)

    def slope(columns: Tensor) -> float:
        kept, losses = columns.clone(), []
        for factor in (1 + 1e-5, 1 - 1e-5):
            columns.copy_(kept * factor)
            losses.append(loss_of(model).item())
        columns.copy_(kept)
        return abs(losses[0] - losses[1]) / 2e-5

    weight = layer.attention.out.weight
    for group in range(encoder.kv_heads):
        by_head = weight.view(16, encoder.kv_heads, encoder.group, -1)[:, group]
        expected = sum(slope(by_head[:, i]) for i in range(encoder.group))
        assert found[1].groups[group].item() == pytest.approx(expected, rel=1e-4, abs=1e-8)
    for unit in (0, 7):
        expected = slope(layer.ffn.down.weight[:, unit])
        made = [layer.ffn.up] if layer.ffn.gate is None else [layer.ffn.up, layer.ffn.gate]
        parts = [linear.weight[unit] for linear in made]
        if layer.ffn.has_bias:
            parts += [linear.bias[unit] for linear in made]
        kept = [part.clone() for part in parts]
        losses = []
        for factor in (1 + 1e-5, 1 - 1e-5):
            for part, value in zip(parts, kept, strict=True):
                part.copy_(value * factor)
            losses.append(loss_of(model).item())
        for part, value in zip(parts, kept, strict=True):
            part.copy_(value)
        expected += abs(losses[0] - losses[1]) / 2e-5
        assert found[1].units[unit].item() == pytest.approx(expected, rel=1e-4, abs=1e-8)


def test_importance_without_gradients_is_refused() -> None:
    with pytest.raises(ValueError, match="layer 0 has no gradients"):
        first_order_importance(tiny_exits())


@pytest.mark.parametrize(
    ("importance", "message"),
    [
        ([Importance(torch.ones(4), torch.ones(24))] * 3, "of 3 layers; the model has 4"),
        ([Importance(torch.ones(3), torch.ones(24))] * 4, r"layer 0: groups have shape \[3\]"),
        ([Importance(torch.ones(4), torch.ones(2, 24))] * 4, r"units have shape \[2, 24\]; needed"),
        ([Importance(torch.ones(4), torch.full((24,), torch.nan))] * 4, "needed are 24 numbers"),
    ],
    ids=["layers", "groups", "units", "nan"],
)
def test_importance_that_does_not_fit_is_refused(
    importance: list[Importance], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        rank_units(tiny_exits(), importance)
