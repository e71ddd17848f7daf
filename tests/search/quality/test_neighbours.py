from __future__ import annotations

import numpy as np
import pytest

from search.quality.neighbours import NeighboursQuality


def test_a_text_has_the_label_of_its_nearest_others_and_never_votes_for_itself() -> None:
    rng = np.random.default_rng(0)
    labels = [i % 2 for i in range(40)]
    centres = np.array([[1.0, 0.0], [0.0, 1.0]])
    vectors = centres[labels] + 0.1 * rng.normal(size=(40, 2))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    examples = [(f"text {i}", str(label)) for i, label in enumerate(labels)]
    found = NeighboursQuality(examples).score(vectors)
    assert (found.value, found.n, found.stderr) == (1.0, 40, 0.0)
    odd = [(text, "other" if i == 7 else label) for i, (text, label) in enumerate(examples)]
    assert NeighboursQuality(odd).score(vectors).value == pytest.approx(39 / 40)


def test_chance_is_what_vectors_without_meaning_get() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(1200, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    examples = [(f"text {i}", str(rng.integers(4))) for i in range(1200)]
    found = NeighboursQuality(examples).score(vectors)
    assert abs(found.value - 0.25) < 4 * found.stderr
    assert found.stderr == pytest.approx((0.25 * 0.75 / 1200) ** 0.5, rel=0.1)


def test_one_label_or_few_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="9 texts of 1 labels"):
        NeighboursQuality([(str(i), "a") for i in range(9)])
    with pytest.raises(ValueError, match="3 texts of 3 labels"):
        NeighboursQuality([(str(i), str(i)) for i in range(3)])
