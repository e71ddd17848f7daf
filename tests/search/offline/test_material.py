from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest

from models.train.texts import normal
from search.offline.errors import DataError
from search.offline.material import parts, read_labels, read_material, read_texts
from search.quality.table import FloatArray


def embed(texts: object) -> FloatArray:
    assert isinstance(texts, list)
    vectors = np.random.default_rng(0).standard_normal((len(texts), 4))
    found: FloatArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def pairs_file(folder: Path, count: int = 60) -> Path:
    rows = [f"left {i}\tright {i}\t{i % 5}" for i in range(count)]
    return write(folder / "pairs.tsv", ["sentence1\tsentence2\tscore", *rows])


def labels_file(folder: Path, count: int = 60) -> Path:
    return write(
        folder / "labels.csv", ["text,label", *(f"text {i},c{i % 3}" for i in range(count))]
    )


def texts_file(folder: Path, count: int = 60) -> Path:
    return write(folder / "texts.txt", [f"line {i}" for i in range(count)])


@pytest.mark.parametrize(
    ("make", "metric"),
    [(pairs_file, "spearman"), (labels_file, "accuracy"), (texts_file, "agreement")],
)
def test_the_parts_share_no_text_and_the_seed_fixes_them(
    tmp_path: Path, make: object, metric: str
) -> None:
    assert callable(make)
    path = make(tmp_path)
    material = read_material(path, [], 3)(embed)
    again = read_material(path, [], 3)(embed)
    other = read_material(path, [], 4)(embed)
    assert material.metric == metric
    chosen, reported = set(material.choose.texts), set(material.report.texts)
    fitted = set(material.fit)
    if metric == "accuracy":  # the probe's examples are fitted on
        chosen, reported = chosen - fitted, reported - fitted
    assert fitted
    assert chosen
    assert reported
    assert not fitted & chosen
    assert not chosen & reported
    assert not fitted & reported
    assert (material.fit, material.report.texts) == (again.fit, again.report.texts)
    assert material.report.texts != other.report.texts


def test_items_with_a_text_in_common_stay_together_and_shares_are_kept() -> None:
    items = [(f"A {i % 70}", f"b {i}") for i in range(300)]
    found = parts(items, lambda pair: pair, Random(0))
    assert sorted(pair for part in found for pair in part) == sorted(items)
    seen = [{normal(text) for pair in part for text in pair} for part in found]
    assert not seen[0] & seen[1]
    assert not seen[1] & seen[2]
    assert not seen[0] & seen[2]
    assert [len(part) / 300 for part in found] == pytest.approx([0.6, 0.2, 0.2], abs=0.05)


def test_more_texts_are_fitted_on_unless_they_are_held_out(tmp_path: Path) -> None:
    path = texts_file(tmp_path)
    held_out = read_material(path, [], 0)(embed).report.texts[0]
    lines = [f"more {i}" for i in range(30)]
    more = write(tmp_path / "more.txt", [*lines, held_out.upper()])
    fit = read_material(path, [more], 0)(embed).fit
    assert set(lines) <= set(fit)
    assert held_out.upper() not in fit


def test_files_are_refused_by_name_and_line(tmp_path: Path) -> None:
    few = write(tmp_path / "few.txt", ["a", "b", "a"])
    with pytest.raises(DataError, match=r"few.txt has 2 texts; needed are 30 or more"):
        read_texts(few)
    with pytest.raises(DataError, match=r"has no column 'label'; needed: text, label"):
        read_labels(write(tmp_path / "a.csv", ["text,class", "x,y"]))
    with pytest.raises(DataError, match=r"line 3: text and label must not be empty"):
        read_labels(write(tmp_path / "b.csv", ["text,label", "x,y", "z,"]))
    with pytest.raises(DataError, match=r"line 3: 'x' has another label above"):
        read_labels(write(tmp_path / "c.csv", ["text,label", "x,y", "x,z"]))
    with pytest.raises(DataError, match=r"--data=.*data.json: must be a .tsv of rated pairs"):
        read_material(tmp_path / "data.json", [], 0)
    with pytest.raises(DataError, match=r"--texts=.*pairs.tsv: must be a .txt"):
        read_material(texts_file(tmp_path), [pairs_file(tmp_path)], 0)
    one = write(tmp_path / "one.csv", ["text,label", *(f"t {i},same" for i in range(40))])
    with pytest.raises(DataError, match="label must have two values or more"):
        read_material(one, [], 0)
    latin = tmp_path / "latin.txt"
    latin.write_bytes("é\n".encode("latin-1") * 40)
    with pytest.raises(DataError, match=r"latin.txt"):
        read_texts(latin)
