from __future__ import annotations

import csv
import gzip
from random import Random

import numpy as np
import pytest

from bench import offline_search
from bench.offline_search import Published, best_top1, by_random, hypervolume, largest_top1

COLUMNS = ("Sub-network", "Model Parameters", "MACs", "Top-1 Acc (%)")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Made-up rows: accuracy rises with MACs, but for noise; one subnet is there twice."""
    folder, rng = tmp_path_factory.mktemp("ofa"), Random(0)
    rows = []
    for i in range(30):
        named = {
            "ks": [rng.choice((3, 5, 7)) for _ in range(20)],
            "e": [rng.choice((3, 4, 6)) for _ in range(20)],
            "d": [rng.choice((2, 3, 4)) for _ in range(5)],
        }
        macs = 10_000_000 * (i + 1)
        rows.append((str(named), 1, macs, 70 + i / 10 + rng.uniform(-0.5, 0.5)))
    rows.append((*rows[0][:3], rows[0][3] + 1))
    for name in offline_search._FILES:
        with gzip.open(folder / f"{name}.csv.gz", "wt", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(rows if name == "evoga_acc" else [])
    return Published(folder)


def test_a_subnet_that_was_measured_twice_counts_once_by_its_mean(published: Published) -> None:
    assert (published.num_rows, len(published.rows)) == (31, 30)
    first = published.values[published.rows[0]]
    assert first[1] == 10_000_000


def test_what_is_proposed_becomes_the_nearest_published_subnet(published: Published) -> None:
    rng = np.random.default_rng(0)
    for genes in published.rows:
        assert published.space.canonical(genes) == genes
    drawn = published.space.canonical(tuple(rng.integers(published.space.sizes).tolist()))
    assert drawn in published.values


def test_all_rows_have_all_of_the_hypervolume_and_fewer_have_less(published: Published) -> None:
    pytest.importorskip("pymoo")
    known = by_random(published, np.random.default_rng(0), len(published.rows))
    assert len(known) == len(published.rows)
    shares = [hypervolume(published, known, n) for n in (5, 15, 30)]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


def test_the_best_under_a_budget_is_the_best_that_fits(published: Published) -> None:
    macs = 150e6
    fits = [-top1 for top1, own in published.values.values() if own <= macs]
    assert best_top1(published.values, macs, 30) == max(fits)
    assert np.isnan(best_top1(published.values, 1.0, 30))
    assert largest_top1(published, macs) <= max(fits)
