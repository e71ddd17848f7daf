"""Refitted cuts against plain least squares, and against the layers they stand for."""

from __future__ import annotations

import pytest
import torch

from models.elasticize.assembling import Cut, assemble
from models.elasticize.damage import unexplained
from models.elasticize.refit import Refit, Regression, run_forms, weights_of
from models.elasticize.streams import Stack, observe
from models.families.exits import Exits
from models.families.pruned import LayerForm
from models.nn.ragged import Ragged
from tests.models.elasticize.whole import Parts, parts_of
from tests.tiny_text import ARCHITECTURES
from tests.walking import answers_of

_WHOLE, _LINEAR = LayerForm("whole"), LayerForm("linear")


@pytest.fixture(params=ARCHITECTURES)
def parts(request: pytest.FixtureRequest) -> Parts:
    return parts_of(request.param)


def test_a_regression_is_the_ridge_solution_of_all_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 5, generator=generator) + 3
    y = torch.randn(50, 2, generator=generator)
    regression = Regression(5, 2)
    for part in (slice(0, 20), slice(20, 50)):
        regression.add(x[part], y[part])
    found = regression.solve(0.1)
    centred = (x - x.mean(0)).double()
    penalty = 0.1 * centred.pow(2).sum(0).mean()
    # Ridge is least squares with rows of the penalty's root below.
    rows = torch.cat([centred, penalty.sqrt() * torch.eye(5)])
    aims = torch.cat([(y - y.mean(0)).double(), torch.zeros(5, 2)])
    expected = torch.linalg.lstsq(rows, aims).solution.T
    torch.testing.assert_close(found.weight.double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found(x).mean(0), y.mean(0), atol=1e-5, rtol=0)


def test_a_row_of_weight_two_is_two_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(30, size, generator=generator) for size in (5, 2))
    weights = torch.tensor([2.0, 1.0, 1.0] * 10)
    once, twice = Regression(5, 2), Regression(5, 2)
    once.add(x, y, weights)
    twice.add(torch.cat([x, x[::3]]), torch.cat([y, y[::3]]))
    for found, expected in zip(once.solve(0.1), twice.solve(0.1), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(once.residuals(0.1), twice.residuals(0.1))
    assert once.variance() == pytest.approx(twice.variance())


def test_tokens_count_as_the_norm_after_them_magnifies_their_errors() -> None:
    layer = parts_of("post").stack.layers[0]
    generator = torch.Generator().manual_seed(0)
    sums = torch.randn(6, layer.attention.config.hidden, generator=generator, dtype=torch.float64)
    sums *= torch.tensor([0.1, 0.5, 1, 2, 5, 10])[:, None]
    error = 1e-5 * torch.randn(sums.shape, generator=generator, dtype=torch.float64)
    norm = layer.attention_norm.double()
    moved = (norm(sums + error) - norm(sums)).pow(2).sum(1)
    found = weights_of(layer, sums)
    assert found is not None
    ratios = moved / (found * error.pow(2).sum(1))
    assert float(ratios.max() / ratios.min()) < 3  # the squares themselves differ by 10,000
    assert weights_of(parts_of("grouped").stack.layers[0], sums) is None


def test_residuals_say_what_the_first_inputs_leave() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(80, 4, generator=generator)
    y = x[:, :2] @ torch.randn(2, 3, generator=generator)
    regression = Regression(4, 3)
    regression.add(x, y)
    left = regression.residuals(1e-9)
    for k in (1, 2, 3):
        own = Regression(k, 3)
        own.add(x[:, :k], y)
        error = (own.solve(1e-9)(x[:, :k]) - y).pow(2).sum(1).mean()
        assert float(left[k - 1]) == pytest.approx(float(error), abs=1e-5)
    assert float(left[1]) < 1e-6 < float(left[0])


def test_all_heads_and_units_refit_give_the_whole_layers_output(parts: Parts) -> None:
    layers, streams = parts.stack.layers, parts.streams
    config = layers[0].attention.config
    forms = [LayerForm("narrow", config.kv_heads, config.ffn), *[_WHOLE] * (len(layers) - 1)]
    maps = Refit(layers, streams, ridge=1e-9).fit(forms)
    ends = streams.after(layers, len(layers))
    for x, end in zip(streams.entry, ends, strict=True):
        found = run_forms(layers, forms, maps, x)
        torch.testing.assert_close(found.values, end.values, atol=1e-3, rtol=1e-3)


def test_a_refit_is_nearer_to_the_whole_layer_than_its_own_weights_cut(parts: Parts) -> None:
    layers, streams = parts.stack.layers, parts.streams
    config = layers[0].attention.config
    groups, units = config.kv_heads // 2, config.ffn // 2
    forms = [LayerForm("narrow", groups, units)]
    (maps,) = Refit(layers[:1], streams).fit(forms)
    fitted = cut = 0.0
    for x, end in zip(streams.entry, streams.after(layers, 1), strict=True):
        fitted += distance(run_forms(layers[:1], forms, [maps], x), end)
        cut += distance(layers[0](groups, units, x), end)
    assert fitted < 0.8 * cut


def distance(a: Ragged, b: Ragged) -> float:
    return float((a.values - b.values).pow(2).sum())


def test_later_layers_are_fitted_to_what_earlier_ones_left(parts: Parts) -> None:
    layers, streams = parts.stack.layers[:2], parts.streams
    forms = [_LINEAR, LayerForm("narrow", layers[0].attention.config.kv_heads, 12)]
    refit = Refit(layers, streams)
    maps = refit.fit(forms)
    (_, alone) = refit.fit([_WHOLE, forms[1]])
    after = [run_forms(layers[:1], forms[:1], maps[:1], x) for x in streams.entry]
    errors = []
    for own in (maps[1], alone):
        found = [run_forms(layers[1:], forms[1:], [own], x) for x in after]
        errors.append(sum(map(distance, found, streams.after(layers, 2))))
    assert errors[0] < errors[1]


def test_a_cut_is_fitted_alike_whether_or_not_its_start_is_known(parts: Parts) -> None:
    layers, streams = parts.stack.layers, parts.streams
    first, second = LayerForm("narrow", 1, 8), LayerForm("narrow", 1, 20)
    forms = [first, second, _LINEAR, first][: len(layers)]
    refit = Refit(layers, streams)
    refit.fit([*forms[:-1], second])
    for found, expected in zip(refit.fit(forms), Refit(layers, streams).fit(forms), strict=True):
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a.weight, b.weight, atol=0, rtol=0)


def test_what_forms_leave_falls_with_each_head_and_unit(parts: Parts) -> None:
    for one in unexplained(parts.stack.layers, parts.streams):
        for curve in (one.heads, one.units):
            assert bool((curve.diff() <= 1e-6).all())
            assert bool((curve >= 0).all())
        assert 0 <= one.linear <= 1


def test_a_cut_costs_its_distance_from_the_whole_model_before_anything_is_run() -> None:
    parts = parts_of("post")
    layers = parts.stack.layers
    (found, *_) = unexplained(layers, parts.streams)
    forms = [LayerForm("narrow", layers[0].attention.config.kv_heads, 6)]
    (maps,) = Refit(layers[:1], parts.streams).fit(forms)
    sums = torch.cat(list(parts.streams.ffn[0]))
    counts = weights_of(layers[0], sums)
    assert counts is not None
    h = layers[0].attention_norm(torch.cat(list(parts.streams.attention[0])))
    lost = h + maps[1](layers[0].ffn(h, 6)) - sums
    error = float((counts * lost.pow(2).sum(1)).sum())
    mean = (counts[:, None] * sums).sum(0) / counts.sum()
    variance = float((counts * (sums - mean).pow(2).sum(1)).sum())
    assert float(found.units[5]) == pytest.approx(error / variance, rel=0.05)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_assembled_model_answers_as_its_parts_and_shares_equal_starts(architecture: str) -> None:
    parts = parts_of(architecture)
    model, layers = parts.model, parts.stack.layers
    narrow = LayerForm("narrow", 1, 12)
    cuts = []
    refit = Refit(layers, parts.streams)
    for keep, forms in (
        (0.3, (narrow, _LINEAR, narrow, narrow)),
        (0.5, (narrow, _LINEAR, narrow, _WHOLE)),
    ):
        cuts.append(Cut(keep, forms, refit.fit(forms)))
    made = assemble(model, "exits", cuts)
    assert made.config.cuts == ((0, 0, 0, 0), (0, 0, 0, 1), (1, 1, 1, 1))
    shapes = {"text": (9,)}
    for cut in cuts:
        plan = made.plan(made.space.largest | {"keep": cut.keep}, shapes)
        for tokens, x in zip(parts.batches, parts.streams.entry, strict=True):
            expected = parts.stack.leave(run_forms(layers, cut.forms, cut.maps, x))
            found = answers_of(plan, {"text": tokens})["similarity"]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    whole = made.plan(made.space.largest, shapes)
    base: Exits = model
    plans = (whole, base.plan(base.space.largest, shapes))
    one, other = (answers_of(p, {"text": parts.batches[0]})["similarity"] for p in plans)
    torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_a_stack_needs_layers_in_a_row() -> None:
    parts = parts_of("post")
    streams = observe(parts.stack.layers, parts.streams.entry)
    assert streams.tokens == sum(len(x.values) for x in parts.streams.entry)
    with pytest.raises(ValueError, match="no transformer layers"):
        Stack(torch.nn.Linear(2, 2))
