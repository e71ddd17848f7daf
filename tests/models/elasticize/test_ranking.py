"""Rankings against what leaving a head or unit out really does."""

from __future__ import annotations

import pytest
import torch

from models.elasticize.ranking import at_random, contribution, first_order, magnitude, trajectory
from models.elasticize.streams import observe
from models.nn.ragged import Ragged
from models.train.ranking import Importance
from tests.models.elasticize.whole import Parts, parts_of
from tests.tiny_text import ARCHITECTURES


@pytest.fixture(params=ARCHITECTURES)
def parts(request: pytest.FixtureRequest) -> Parts:
    return parts_of(request.param)


def ranks(values: torch.Tensor) -> torch.Tensor:
    return values.argsort().argsort().double()


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([ranks(a), ranks(b)]))[0, 1])


def test_a_contribution_is_the_variance_that_a_part_adds_to_the_stream(parts: Parts) -> None:
    layer = parts.stack.layers[0]
    config = layer.attention.config
    found = contribution(parts.stack.layers, parts.streams)[0]
    inner = config.group * config.head_dim
    added, made = [], []
    for x, total in zip(parts.streams.entry, parts.streams.attention[0], strict=True):
        read = x if layer.is_post else x.replace(layer.attention_norm(x.values))
        added.append(layer.attention(read, config.kv_heads))
        h = layer.attention_norm(total) if layer.is_post else layer.ffn_norm(total)
        made.append(layer.ffn(h, config.ffn))
    heads, units = torch.cat(added), torch.cat(made)
    for g in range(config.kv_heads):
        part = slice(g * inner, (g + 1) * inner)
        own = heads[:, part] @ layer.attention.out.weight[:, part].T
        expected = own.var(0, unbiased=False).sum()
        assert float(found.groups[g]) == pytest.approx(float(expected), rel=1e-3)
    for j in (0, 5, config.ffn - 1):
        own = units[:, j : j + 1] @ layer.ffn.down.weight[:, j : j + 1].T
        expected = own.var(0, unbiased=False).sum()
        assert float(found.units[j]) == pytest.approx(float(expected), rel=1e-3, abs=1e-7)


def test_magnitude_counts_the_weights_that_make_and_read_a_part(parts: Parts) -> None:
    layer = parts.stack.layers[1]
    found = magnitude(parts.stack.layers)[1]
    ffn = layer.ffn
    made = [ffn.up.weight, *([] if ffn.gate is None else [ffn.gate.weight])]
    expected = sum(float(w[3].pow(2).sum()) for w in made) + float(
        ffn.down.weight[:, 3].pow(2).sum()
    )
    assert float(found.units[3]) == pytest.approx(expected, rel=1e-5)
    inner = layer.attention.config.group * layer.attention.config.head_dim
    read = layer.attention.out.weight[:, inner : 2 * inner].pow(2).sum()
    expected = float(layer.attention.qkv[1].pow(2).sum() + read)
    assert float(found.groups[1]) == pytest.approx(expected, rel=1e-5)


def test_first_order_orders_units_as_a_small_change_of_them_does(parts: Parts) -> None:
    stack = parts.stack
    entry = [x[0:35] for x in parts.streams.entry]  # no multiple of a batch
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(stack.layers[2].attention.config.ffn)
    for seed in range(20):
        generator.manual_seed(seed)
        total += first_order(stack, entry, generator)[2].units
    moved = torch.stack([change(parts, entry, unit) for unit in range(len(total))])
    assert correlation(total, moved) > 0.6
    assert all(not weight.requires_grad for layer in stack.layers for weight in layer.parameters())
    assert all(weight.grad is None for layer in stack.layers for weight in layer.parameters())


def change(parts: Parts, entry: list[Ragged], unit: int) -> torch.Tensor:
    """Return the squared change of the answers where a unit says a little less."""
    down = parts.stack.layers[2].ffn.down.weight
    answers = []
    before = down[:, unit].clone()
    for scale in (1.0, 0.99):
        down[:, unit] = before * scale
        found = []
        for x in entry:
            for layer in parts.stack.layers:
                x = layer(layer.attention.config.kv_heads, layer.attention.config.ffn, x)
            found.append(parts.stack.leave(x))
        answers.append(torch.cat(found).double())
    down[:, unit] = before
    return (answers[0] - answers[1]).pow(2).sum()


def test_a_part_that_says_nothing_moves_no_trajectory(parts: Parts) -> None:
    layers = parts.stack.layers
    inner = layers[1].attention.config.group * layers[1].attention.config.head_dim
    layers[1].attention.out.weight[:, :inner] = 0
    streams = observe(layers, parts.streams.entry)
    found = trajectory(layers, streams)
    assert float(found[1].groups[0]) == 0
    assert bool((found[1].groups[1:] > 0).all())
    assert bool((found[0].units > 0).all())


def test_random_numbers_follow_the_generator(parts: Parts) -> None:
    def drawn(seed: int) -> list[Importance]:
        return at_random(parts.stack.layers, torch.Generator().manual_seed(seed))

    for one, same, other in zip(drawn(1), drawn(1), drawn(2), strict=True):
        assert torch.equal(one.units, same.units)
        assert not torch.equal(one.units, other.units)
        assert not torch.equal(one.groups, other.groups)
