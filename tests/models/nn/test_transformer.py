"""Encoder layers of every architecture: slices, packing, gradients and costs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.families.exits import Exits
from models.nn.ragged import Ragged
from models.nn.transformer import Layer
from tests.tiny_text import ARCHITECTURES, embed, exits_config, tiny_exits, token_rows

EVERY = pytest.mark.parametrize("architecture", list(ARCHITECTURES))


def cut(model: Exits, architecture: str, groups: int, units: int) -> Exits:
    """Return a model whose weights are cut out and copied, and that knows of no other width."""
    encoder = model.config.encoder
    sizes: dict[str, Any] = {
        "heads": groups * encoder.group,
        "kv_heads": groups,
        "ffn": units,
    }
    small = tiny_exits(architecture, sizes, heads=(1.0,), ffn=(1.0,))
    state = {}
    for key, target in small.state_dict().items():
        source = model.state_dict()[key]
        state[key] = source[tuple(slice(size) for size in target.shape)].clone()
    small.load_state_dict(state)
    return small


@EVERY
@pytest.mark.parametrize(("heads", "ffn"), [(0.5, 0.25), (1.0, 0.5), (0.5, 1.0)])
def test_a_slice_equals_the_cut_copy(architecture: str, heads: float, ffn: float) -> None:
    model = tiny_exits(architecture)
    groups, units = model.widths({"heads": heads, "ffn": ffn})
    small = cut(model, architecture, groups, units)
    rows = token_rows()
    for depth in model.config.depths:
        found = embed(model, rows, depth, 16, heads, ffn)
        torch.testing.assert_close(found, embed(small, rows, depth, 16), atol=1e-5, rtol=0)
        assert not torch.allclose(found, embed(model, rows, depth, 16), atol=1e-3)


@EVERY
def test_a_packed_batch_equals_single_runs(architecture: str) -> None:
    model = tiny_exits(architecture)
    rows = token_rows()
    single = torch.cat([embed(model, [row], 4, 16) for row in rows])
    torch.testing.assert_close(embed(model, rows, 4, 16), single, atol=1e-5, rtol=0)
    same = token_rows((7, 7))
    single = torch.cat([embed(model, [row], 4, 16) for row in same])
    torch.testing.assert_close(embed(model, same, 4, 16), single, atol=1e-5, rtol=0)


@EVERY
def test_attention_gives_the_same_with_and_without_padding(architecture: str) -> None:
    model = tiny_exits(architecture)
    found = []
    for grad in (True, False):
        packed = Ragged.pack(token_rows((3, 3, 5, 2, 5)))
        with torch.set_grad_enabled(grad):
            assert (len(packed.layout.blocks) == 1) == grad
            hidden = model.embedding(packed)
            for layer in model.layers:
                hidden = layer(*model.widths(model.space.largest), hidden)
        found.append(hidden.values)
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=0)


@EVERY
@pytest.mark.parametrize("lengths", [(12, 1, 5), (6, 6), (1,)])
def test_gradients_are_finite_and_equal_those_of_single_runs(
    architecture: str, lengths: tuple[int, ...]
) -> None:
    model = tiny_exits(architecture).requires_grad_(True)
    rows = token_rows(lengths)
    target = F.normalize(torch.randn(16, generator=torch.Generator().manual_seed(1)), dim=0)
    (embed(model, rows, 4, 16) @ target).sum().backward()  # type: ignore[no-untyped-call]
    packed = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for row in rows:
        (embed(model, [row], 4, 16) @ target).sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            assert name.startswith("exits") or name not in packed
            continue
        assert packed[name].isfinite().all(), name
        torch.testing.assert_close(packed[name], parameter.grad, atol=2e-5, rtol=1e-4, msg=name)


@EVERY
def test_one_layer_computes_what_its_definition_says(architecture: str) -> None:
    """Against plain torch, one head and one query at a time."""
    model = tiny_exits(architecture)
    config = model.config.encoder
    layer = model.layers[1]  # local, where there are local layers
    assert isinstance(layer, Layer)
    x = torch.randn(7, config.hidden, generator=torch.Generator().manual_seed(2))
    found = layer(config.kv_heads, config.ffn, Ragged.pack([x])).values

    inside = x if config.norm == "post" else layer.attention_norm(x)
    attended = x + reference_attention(layer, inside)
    if config.norm == "post":
        attended = layer.attention_norm(attended)
    inside = attended if config.norm == "post" else layer.ffn_norm(attended)
    up: Tensor = layer.ffn.up(inside)
    activation = nn.GELU("tanh" if config.activation == "gelu_tanh" else "none")
    up = activation(up) if layer.ffn.gate is None else activation(layer.ffn.gate(inside)) * up
    expected = attended + layer.ffn.down(up)
    if config.norm == "post":
        expected = layer.ffn_norm(expected)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def reference_attention(layer: Layer, x: Tensor) -> Tensor:
    attention, config = layer.attention, layer.attention.config
    theta = config.local_theta if attention.window else config.rotary_theta
    outputs = []
    for head in range(config.heads):
        group, place = divmod(head, config.group)
        weight = attention.qkv[group].view(config.group + 2, config.head_dim, -1)
        bias = torch.zeros(config.group + 2, config.head_dim)
        if attention.qkv_bias is not None:
            bias = attention.qkv_bias[group].view_as(bias)
        query, key, value = (x @ weight[i].T + bias[i] for i in (place, -2, -1))
        if config.positions == "rotary":
            query, key = turn(query, theta), turn(key, theta)
        rows = []
        for i in range(len(x)):
            scores = key @ query[i] / config.head_dim**0.5
            for j in range(len(x)):
                if attention.relative_bias is not None:
                    # Up to eight tokens apart, every distance has its own bucket.
                    bucket = i - j if j <= i else 16 + j - i
                    scores[j] += attention.relative_bias[bucket, head]
                is_far = attention.window is not None and abs(i - j) > attention.window
                if is_far or (config.causal and j > i):
                    scores[j] = -torch.inf
            rows.append(scores.softmax(0) @ value)
        outputs.append(torch.stack(rows))
    out: Tensor = attention.out(torch.cat(outputs, dim=1))
    return out


def turn(x: Tensor, theta: float) -> Tensor:
    """Rotate pairs (i, i + half) as complex numbers."""
    half = x.shape[1] // 2
    angles = torch.arange(len(x))[:, None] * theta ** (-torch.arange(half) / half)
    turned = torch.complex(x[:, :half], x[:, half:]) * torch.polar(torch.ones(()), angles)
    return torch.cat((turned.real, turned.imag), dim=1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden": 0}, "hidden=0 must be 1 or more"),
        ({"window": 0}, "window=0 must be 1 or more"),
        ({"kv_heads": 3}, "heads=4 is not a multiple of kv_heads=3"),
        ({"positions": "rotary", "head_dim": 5}, "head_dim=5 must be even"),
        ({"positions": "relative", "kv_heads": 2}, "needs kv_heads equal to heads"),
        ({"positions": "relative", "relative_buckets": 6}, "relative_buckets=6 is not a multiple"),
        ({"first_attention_norm": False}, "first_attention_norm=False needs norm='pre'"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_an_architecture_that_cannot_be_built_is_refused(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        exits_config("post", fields)


def test_an_encoder_is_not_changed_by_a_narrow_call() -> None:
    model = tiny_exits("gated")
    before = copy.deepcopy(model.state_dict())
    wide = embed(model, token_rows(), 4, 16)
    embed(model, token_rows(), 1, 4, 0.5, 0.25)
    assert torch.equal(embed(model, token_rows(), 4, 16), wide)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
