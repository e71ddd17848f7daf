from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr

from search.quality.agreement import AgreementQuality, ProbeQuality
from search.quality.table import FloatArray


def unit(rows: int, dim: int, seed: int) -> FloatArray:
    vectors = np.random.default_rng(seed).standard_normal((rows, dim))
    found: FloatArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


TEXTS = [f"text {i}" for i in range(30)]


def test_agreement_is_the_mean_correlation_of_each_texts_similarities() -> None:
    whole, other = unit(30, 6, 0), unit(30, 6, 0) + 0.3 * unit(30, 6, 1)
    found = AgreementQuality(TEXTS, whole).score(other)
    expected = []
    for i in range(30):
        rest = [j for j in range(30) if j != i]
        expected.append(pearsonr(whole[rest] @ whole[i], other[rest] @ other[i]).statistic)
    assert found.value == pytest.approx(np.mean(expected))
    assert found.stderr == pytest.approx(np.std(expected, ddof=1) / np.sqrt(30))
    assert found.n == 30


def test_a_rotated_space_agrees_and_a_random_one_does_not() -> None:
    whole = unit(30, 6, 0)
    rotation = np.linalg.qr(np.random.default_rng(2).standard_normal((6, 6)))[0]
    quality = AgreementQuality(TEXTS, whole)
    assert quality.score(whole @ rotation).value == pytest.approx(1)
    assert quality.score(unit(30, 6, 9)).value < 0.2
    assert 0 <= quality.score(-np.abs(whole)).value <= 1


def test_equal_vectors_agree_with_nothing_instead_of_failing() -> None:
    same = np.tile(unit(1, 6, 0), (30, 1))
    assert AgreementQuality(TEXTS, unit(30, 6, 0)).score(same).value == 0


def test_two_texts_have_no_agreement() -> None:
    with pytest.raises(ValueError, match="2 texts: agreement needs three or more"):
        AgreementQuality(TEXTS[:2], unit(2, 6, 0))


def labelled(count: int, seed: int) -> tuple[list[tuple[str, str]], FloatArray]:
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, count)
    vectors = np.eye(8)[classes] + 0.4 * rng.standard_normal((count, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [(f"{seed} {i}", f"c{c}") for i, c in enumerate(classes)], vectors


def test_a_probe_tells_classes_that_the_vectors_hold_and_no_others() -> None:
    examples, train = labelled(90, 0)
    held_out, test = labelled(60, 1)
    quality = ProbeQuality(examples, held_out)
    vectors = np.concatenate([train, test])
    assert quality.texts == [text for text, _ in (*examples, *held_out)]
    found = quality.score(vectors)
    nearest = np.array([(test @ train[i]) for i in range(90)]).argmax(axis=0)
    right = np.mean(
        [examples[n][1] == label for n, (_, label) in zip(nearest, held_out, strict=True)]
    )
    assert found.value >= right > 0.5
    assert found.n == 60
    assert quality.score(unit(150, 8, 5)).value < 0.6


def test_a_class_without_examples_is_never_told() -> None:
    examples, train = labelled(90, 0)
    held_out = [("new", "unknown"), ("other", "c0")]
    vectors = np.concatenate([train, np.eye(8)[:1], np.eye(8)[:1]])
    assert ProbeQuality(examples, held_out).score(vectors).value == 0.5


def test_one_class_is_no_probe() -> None:
    with pytest.raises(ValueError, match="two classes or more"):
        ProbeQuality([("a", "x"), ("b", "x")], [("c", "x")])
