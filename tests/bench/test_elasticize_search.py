from __future__ import annotations

import numpy as np
import pytest

from bench.elasticize_search import Mean
from search.quality.agreement import AgreementQuality


def test_each_kind_of_text_is_compared_among_its_own() -> None:
    rng = np.random.default_rng(0)
    whole = rng.standard_normal((20, 4))
    whole /= np.linalg.norm(whole, axis=1, keepdims=True)
    texts = [f"text {i}" for i in range(20)]
    parts = [AgreementQuality(texts[:12], whole[:12]), AgreementQuality(texts[12:], whole[12:])]
    mean = Mean(parts)
    assert mean.texts == texts
    moved = whole + 0.3 * rng.standard_normal(whole.shape)
    found = mean.score(moved)
    each = [parts[0].score(moved[:12]), parts[1].score(moved[12:])]
    assert found.value == pytest.approx((each[0].value + each[1].value) / 2)
    assert found.n == 20
    # Where the kinds lie apart from each other says nothing.
    apart = whole * np.where(np.arange(20) < 12, 1, 5)[:, None]
    assert mean.score(apart).value == pytest.approx(1)
