from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bench.soak import Traffic, main, slope
from tests.tiny import write_checkpoint
from tests.tiny_text import write_text_checkpoint


def test_the_slope_is_that_of_the_line_and_its_error_that_of_the_noise() -> None:
    seconds = np.arange(0, 600, 0.5)
    found = slope([(s, 500 + 3 * s / 60) for s in seconds.tolist()])
    assert found.mb_per_min == pytest.approx(3)
    assert found.stderr == pytest.approx(0, abs=1e-6)
    rng = np.random.default_rng(0)
    slopes = [
        slope(list(zip(seconds.tolist(), (500 + rng.normal(0, 5, 1200)).tolist(), strict=True)))
        for _ in range(200)
    ]
    spread = np.std([one.mb_per_min for one in slopes])
    assert np.mean([one.stderr for one in slopes]) == pytest.approx(spread, rel=0.15)


def test_traffic_is_of_all_kinds_and_the_same_for_one_seed() -> None:
    first, again = (Traffic("images", "texts", random.Random(0)) for _ in range(2))
    requests = [first.next() for _ in range(400)]
    assert requests == [again.next() for _ in range(400)]
    kinds = Counter(kind for kind, *_ in requests)
    assert set(kinds) == {
        "infer",
        "embeddings",
        "rerank",
        "plan",
        "invalid",
        "infeasible",
        "cancelled",
    }
    assert kinds["embeddings"] > 100


@pytest.mark.slow
def test_a_short_soak_answers_everything_as_it_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path / "models" / "tiny")
    write_text_checkpoint(tmp_path / "models" / "tiny-text")
    figures = tmp_path / "figures.json"
    options = ["0.2", "--models", str(tmp_path / "models"), "--reload", "--json", str(figures)]
    monkeypatch.setattr(sys, "argv", ["soak", *options])
    main()
    found = json.loads(figures.read_text())["soak"]
    assert not found["unexpected"]
    assert found["reloads"] == {"200": 1}
    assert found["statuses"]["embeddings 200"] > 0
    assert found["statuses"]["invalid 400"] > 0
    assert found["last_mb"] > 50
