from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.space import Subnet
from search.quality.errors import with_errors
from search.quality.table import Cells, FloatArray, Table


def table_of(right: FloatArray, agreement: FloatArray | None) -> Table:
    """Return the table of accuracies of some subnets, the largest last."""
    value = right.mean(axis=1)[:, None]
    stderr = np.sqrt(value * (1 - value) / right.shape[1])
    cells = Cells(
        (Subnet({}),),
        value,
        np.full(value.shape, right.shape[1]),
        stderr,
        np.ones(value.shape, dtype=np.bool_),
        agreement=agreement,
    )
    return Table(tuple(Subnet({"width": i}) for i in range(len(right))), {"task": cells})


def test_the_error_of_a_retention_is_that_of_a_ratio_of_paired_scores() -> None:
    rng = np.random.default_rng(0)
    whole = rng.random((400, 500)) < 0.8
    flipped = rng.random((400, 500)) < 0.1
    small = whole ^ flipped
    ratios = small.mean(axis=1) / whole.mean(axis=1)
    both = np.stack([small[0], whole[0]]).astype(float)
    correlation = np.corrcoef(small.ravel(), whole.ravel())[0, 1]
    found = with_errors(table_of(both, np.array([[correlation], [1.0]])))
    error = found.cells["task"].known_error
    assert error[0, 0] == pytest.approx(ratios.std(), rel=0.15)
    assert error[-1, 0] == 0.0


def test_scores_that_agree_more_have_a_retention_that_is_less_in_doubt() -> None:
    right = np.array([[1, 0, 1, 1] * 25, [1, 1, 1, 0] * 25], dtype=float)
    errors = [
        with_errors(table_of(right, np.array([[alike], [1.0]]))).cells["task"].known_error[0, 0]
        for alike in (0.2, 0.6, 0.95)
    ]
    assert errors == sorted(errors, reverse=True)
    unknown = with_errors(table_of(right, None)).cells["task"].known_error[0, 0]
    assert unknown < 1e-6  # taken to agree as far as it retains, which here is wholly


def test_of_errors_the_ratio_is_upside_down() -> None:
    base = table_of(np.array([[1, 0, 1, 1] * 25, [1, 1, 1, 0] * 25], dtype=float), None)
    (cells,) = base.cells.values()
    worse = replace(
        cells,
        value=np.array([[2.0], [1.0]]),
        stderr=np.array([[0.2], [0.0]]),
        lower_is_better=True,
    )
    found = with_errors(Table(base.rows, {"task": worse}))
    # 1 / 2 with 10 % of error below the line.
    assert found.cells["task"].known_error[0, 0] == pytest.approx(0.05)
