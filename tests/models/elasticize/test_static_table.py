from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.elasticize.sparse_rows import Floats
from models.elasticize.static_table import Bags, Fitted, corrected, fit, put, values_of
from models.nn.ragged import Ragged
from models.nn.static import Static

TOKENS, WIDTH, HIDDEN = 30, 6, 5


def rows(count: int, below: int = TOKENS, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, below, (2 + i % 7,), generator=generator) for i in range(count)]


def unit(vectors: Any) -> Floats:
    found: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found.astype(np.float32)


def test_a_token_counts_less_the_more_texts_have_it() -> None:
    texts = [torch.tensor([0, 1, 1]), torch.tensor([0, 2]), torch.tensor([0]), torch.tensor([0, 1])]
    expected = [1 / np.sqrt(1 + 2000 * share) for share in (1, 0.5, 0.25, 0)]
    np.testing.assert_allclose(Bags(texts, 4).weights(), expected, rtol=1e-6)


def test_bags_have_length_1_and_count_tokens_that_repeat() -> None:
    bags = Bags([torch.tensor([0, 1, 1])], 3).scaled(np.array([2, 1, 1], dtype=np.float32))
    np.testing.assert_allclose(bags.toarray(), [[2 / 8**0.5, 2 / 8**0.5, 0]], rtol=1e-6)


def test_the_correction_is_that_of_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    bags = Bags(rows(200), TOKENS)
    scaled = bags.scaled(bags.weights())
    prior = rng.normal(size=(TOKENS, WIDTH)).astype(np.float32)
    vectors = unit(rng.normal(size=(200, WIDTH)))
    dense = scaled.toarray().astype(np.float64)
    gram = dense.T @ dense + 0.5 * np.eye(TOKENS)
    expected = prior + np.linalg.solve(gram, dense.T @ (vectors - dense @ prior))
    np.testing.assert_allclose(corrected(scaled, vectors, prior, 0.5), expected, atol=1e-4)


def test_vectors_that_are_sums_over_tokens_are_found_again() -> None:
    rng = np.random.default_rng(1)
    hidden = rng.normal(size=(TOKENS, WIDTH)).astype(np.float32)
    texts = rows(3000)
    bags = Bags(texts, TOKENS)
    vectors = unit(bags.counts @ hidden)
    static = Static(TOKENS, WIDTH)
    put(fit(bags, vectors, rng.normal(size=(TOKENS, HIDDEN)).astype(np.float32)), static)
    step = static.answer("text", WIDTH, 9)
    new = rows(100, seed=5)
    found = step.run(static(Ragged.pack(new))).numpy(force=True)
    expected = unit(Bags(new, TOKENS).counts @ hidden)
    assert (found * expected).sum(axis=1).mean() > 0.99


def test_a_token_that_no_text_has_keeps_what_an_earlier_table_says_of_it() -> None:
    rng = np.random.default_rng(2)
    bags = Bags(rows(300, below=20), TOKENS)
    vectors = unit(rng.normal(size=(300, WIDTH)))
    tokens = rng.normal(size=(TOKENS, HIDDEN)).astype(np.float32)
    prior = Fitted(
        rng.normal(size=(TOKENS, WIDTH)).astype(np.float32), np.full(TOKENS, 0.5, dtype=np.float32)
    )
    found, before = fit(bags, vectors, tokens, prior).folded[20:], prior.folded[20:]
    factor = (found * before).sum() / (before**2).sum()
    np.testing.assert_allclose(found, factor * before, atol=1e-6)
    assert not np.allclose(
        fit(bags, vectors, tokens, prior).folded[:20] / factor, prior.folded[:20]
    )


def test_fitting_ends_when_it_is_told_to() -> None:
    bags = Bags(rows(50), TOKENS)
    vectors = unit(np.random.default_rng(3).normal(size=(50, WIDTH)))
    steps: list[int] = []

    def stop(done: int, of: int) -> bool:
        steps.append(done)
        return done < 2

    corrected(bags.scaled(bags.weights()), vectors, np.zeros((TOKENS, WIDTH), np.float32), 1, stop)
    assert steps == [1, 2]


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_values_fit_into_float16_whatever_the_scale_of_the_fit(scale: float) -> None:
    table = scale * np.random.default_rng(4).normal(size=(TOKENS, WIDTH)).astype(np.float32)
    static = Static(TOKENS, WIDTH)
    put(Fitted(table, np.full(TOKENS, 0.02, dtype=np.float32)), static)
    stored = values_of(static.half().float())
    for own, expected in zip(unit(stored.table), unit(table), strict=True):
        np.testing.assert_allclose(own, expected, atol=2e-3)
