from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from search.quality.table import Table, TableError
from tests.search.toys import Necked, random_table
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
    return Table.load(path, model.space, model.tasks)


def test_a_saved_table_is_read_back_cell_by_cell(path: Path) -> None:
    found, expected = read(path), tiny_table(tiny_model())
    assert found.rows == expected.rows
    for task, cells in expected.cells.items():
        assert found.cells[task].columns == cells.columns
        for name in ("value", "n", "stderr", "measured"):
            want = getattr(cells, name)
            np.testing.assert_allclose(getattr(found.cells[task], name), want, rtol=1e-6)


def test_expected_scores_are_the_measured_ones_until_there_are_others(path: Path) -> None:
    model = tiny_model()
    table = read(path)
    assert table.cells["fish"].smoothed is None
    assert table.at("fish", 0, 0).expected == table.at("fish", 0, 0).value
    smoothed = {
        task: replace(cells, smoothed=cells.value * 0.5 + 0.25)
        for task, cells in table.cells.items()
    }
    Table(table.rows, smoothed).save(path, model.space)
    found = read(path)
    score = found.at("fish", 3, 1)
    full = found.at("fish", -1, -1)
    assert score.value == table.at("fish", 3, 1).value
    assert score.expected == pytest.approx(score.value * 0.5 + 0.25, rel=1e-6)
    assert score.retention == score.expected / full.expected == found.retention("fish")[3, 1]
    assert full.retention == 1


def test_a_part_of_a_table_keeps_the_chosen_cells(path: Path) -> None:
    table = read(path)
    part = table.part(slice(2, 5), slice(-1, None))
    assert part.rows == table.rows[2:5]
    for task, cells in part.cells.items():
        assert cells.columns == table.cells[task].columns[-1:]
        assert (cells.value == table.cells[task].value[2:5, -1:]).all()
        assert cells.expected.shape == cells.n.shape == (3, 1)


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
        (lambda t: t.update({"smoothed.fish": t["value.fish"][:3]}), r"expected\.fish must be fin"),
        (lambda t: t.update({"smoothed.fish": t["value.fish"] * 0}), "scored above 0"),
        (lambda t: t.update(rows=t["rows"][::-1]), "end with the largest"),
        (lambda t: t.update(rows=t["rows"][:, :1]), "do not fit 2 axes"),
        (lambda t: t.update(rows=t["rows"] + np.uint8(9)), "out of range"),
        (lambda t: t.update(rows=t["rows"].astype(np.int64) - 4), "rows has the dtype int64"),
        (lambda t: t.update(rows=t["rows"].astype(np.float32)), "rows has the dtype float32"),
        (lambda t: t.update({"n.fish": t["n.fish"] * np.float32("nan")}), "n.fish has the dtype"),
        (lambda t: t.update({"n.fish": t["n.fish"] * -1}), r"n\.fish must be 0 to 2147483647"),
        (lambda t: t.update({"value.fish": t["value.fish"] * 9}), r"value\.fish must be 0 to 1"),
        (
            lambda t: t.update({"smoothed.fish": t["value.fish"] * 9}),
            r"expected\.fish must be 0 to 1",
        ),
        (lambda t: t.update({"stderr.fish": -t["stderr.fish"]}), r"stderr\.fish must be 0 to 1"),
        (lambda t: t.update({"stderr.fish": t["stderr.fish"] * np.inf}), r"stderr\.fish must be"),
        (lambda t: t.update({"columns.fish": t["rows"][:0, :1]}), "safetensors: "),
    ],
)
def test_a_table_of_another_model_is_refused(
    path: Path, change: Callable[[Tensors], None], message: str
) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
    with pytest.raises(TableError, match=message):
        read(path)


@pytest.mark.parametrize(
    "content", [b"", b"x" * 100, (9 * 10**5).to_bytes(8, "little") + b'{"a":' * 180_000]
)
def test_a_file_that_is_no_table_is_refused_by_name(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(TableError, match=str(path)):
        read(path)
    path.unlink()
    with pytest.raises(TableError, match=str(path)):
        read(path)


class TestErrors:
    """A table of which one task is scored by its error, for items that may lack an input."""

    @pytest.fixture
    def model(self) -> Necked:
        return Necked(with_given=True)

    @pytest.fixture
    def path(self, model: Necked, tmp_path: Path) -> Path:
        path = tmp_path / "table.safetensors"
        random_table(model).save(path, model.space)
        return path

    def test_retention_is_the_full_error_over_the_error(self, model: Necked, path: Path) -> None:
        found = Table.load(path, model.space, model.tasks)
        assert found.cells["distance"].lower_is_better
        assert not found.cells["title"].lower_is_better
        full = found.at("distance", -1, -1)
        worse = found.at("distance", 1, 0)  # both inputs are there
        assert worse.expected > full.expected > 1
        assert worse.retention == pytest.approx(full.expected / worse.expected)
        assert full.retention == 1
        title = found.at("title", 1, 0)
        assert title.retention == pytest.approx(title.expected / found.at("title", -1, -1).expected)

    def test_retention_is_relative_to_the_largest_subnet_for_the_same_inputs(
        self, model: Necked, path: Path
    ) -> None:
        found = Table.load(path, model.space, model.tasks)
        assert found.given == ("inputs",)
        for r, row in enumerate(found.rows):
            full = found.rows[found.full_rows[r]]
            assert dict(full) == {**found.rows[-1], "inputs": row["inputs"]}
        assert found.part(slice(1, None)).given == ("inputs",)
        assert found.retention("title")[-2, -1] == found.retention("title")[-1, -1] == 1

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.update({"value.distance": -t["value.distance"]}), r"must be 0 to inf"),
            (lambda t: t.update({"smoothed.distance": 0 * t["value.distance"]}), "scored above 0"),
            (
                lambda t: t.update({"value.title": -9 * t["value.title"]}),
                r"title must be -1.0 to 1",
            ),
            (lambda t: t.update({"value.topic": -t["value.topic"]}), r"topic must be 0 to 1"),
            (
                lambda t: t.update(
                    {k: np.delete(v, -2, 0) for k, v in t.items() if not k.startswith("columns")}
                ),
                "rows lack encoder=5 neck=4 inputs=query, the largest one for these inputs",
            ),
        ],
    )
    def test_ranges_follow_from_the_metric_and_each_set_of_inputs_has_its_largest_row(
        self, model: Necked, path: Path, change: Callable[[Tensors], None], message: str
    ) -> None:
        tensors = load_file(path)
        change(tensors)
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
        with pytest.raises(TableError, match=message):
            Table.load(path, model.space, model.tasks)
