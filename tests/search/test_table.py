from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from search.table import Table, TableError
from tests.tiny import tiny_model, tiny_table

Tensors = dict[str, NDArray[np.generic]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    model = tiny_model()
    path = tmp_path / "table.safetensors"
    tiny_table(model).save(path, model.space)
    return path


def read(path: Path) -> Table:
    model = tiny_model()
    return Table.load(path, model.space, list(model.tasks))


def test_a_saved_table_is_read_back_cell_by_cell(path: Path) -> None:
    found, expected = read(path), tiny_table(tiny_model())
    assert found.rows == expected.rows
    for task, cells in expected.cells.items():
        assert found.cells[task].columns == cells.columns
        for name in ("value", "n", "stderr", "measured"):
            want = getattr(cells, name)
            np.testing.assert_allclose(getattr(found.cells[task], name), want, rtol=1e-6)


def test_retention_is_relative_to_the_largest_subnet(path: Path) -> None:
    table = read(path)
    assert table.retention("fish")[-1, -1] == 1
    score = table.at("fish", 0, 2)
    assert score.value == table.cells["fish"].value[0, 2]
    assert score.retention == score.value / table.cells["fish"].value[-1, -1]
    assert (score.n, score.measured) == (250, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("n.fish"), r"n\.fish is missing"),
        (lambda t: t.update({"value.fish": t["value.fish"][:3]}), r"value\.fish must be finite"),
        (lambda t: t.update({"value.fish": t["value.fish"] * np.nan}), r"value\.fish must be fin"),
        (lambda t: t.update({"value.fish": t["value.fish"] * 0}), "scored above 0"),
        (lambda t: t.update(rows=t["rows"][::-1]), "end with the largest"),
        (lambda t: t.update(rows=t["rows"][:, :1]), "do not fit 2 axes"),
        (lambda t: t.update(rows=t["rows"] + np.uint8(9)), "out of range"),
    ],
    ids=["missing", "shape", "nan", "zero", "order", "axes", "range"],
)
def test_a_table_of_another_model_is_refused(
    path: Path, change: Callable[[Tensors], None], message: str
) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
    with pytest.raises(TableError, match=message):
        read(path)
