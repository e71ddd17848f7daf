from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from models.tasks import Task
from models.train.texts import normal
from search.offline.errors import DataError
from search.offline.material import read_labels, read_material, read_texts
from search.offline.splitting import parts
from search.offline.whole import MARGIN, Whole
from search.quality.items import Item
from search.quality.table import FloatArray


def embed(texts: Sequence[Item]) -> FloatArray:
    vectors = np.random.default_rng(0).standard_normal((len(texts), 4))
    found: FloatArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


def whole(most: float = 1e9, labels: tuple[str, ...] = ()) -> Whole:
    """Return a model of one token a text, with random answers."""
    task = Task("label", "classes", labels) if labels else Task("similarity", "embedding")
    now = [0.0]

    def answers(texts: Sequence[Item]) -> FloatArray:
        now[0] += len(texts)  # a second a text
        return embed(texts)

    seconds = MARGIN * most
    return Whole(answers, task, len, seconds, seconds, clock=lambda: now[0])


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
    material = read_material(path, [], 3)(whole())
    again = read_material(path, [], 3)(whole())
    other = read_material(path, [], 4)(whole())
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
    held_out = str(read_material(path, [], 0)(whole()).report.texts[0])
    lines = [f"more {i}" for i in range(30)]
    more = write(tmp_path / "more.txt", [*lines, held_out.upper()])
    fit = read_material(path, [more], 0)(whole()).fit
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
        read_material(one, [], 0)(whole())
    latin = tmp_path / "latin.txt"
    latin.write_bytes("é\n".encode("latin-1") * 40)
    with pytest.raises(DataError, match=r"latin.txt"):
        read_texts(latin)


def images_folder(folder: Path, classes: tuple[str, ...] = (), count: int = 40) -> Path:
    """Write small images of random colours, of each class as many."""
    rng = np.random.default_rng(0)
    for n in range(count):
        own = folder / classes[n % len(classes)] if classes else folder
        own.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(own / f"{n}.png")
    return folder


def test_folders_of_images_are_classes_of_the_model_or_of_vectors(tmp_path: Path) -> None:
    path = images_folder(tmp_path / "images", ("cat", "dog"))
    (path / "cat" / "copy.png").write_bytes((path / "cat" / "0.png").read_bytes())
    (path / "cat" / "notes.txt").write_text("not an image")
    of_model = read_material(path, [], 0)(whole(labels=("dog", "cat")))
    of_vectors = read_material(path, [], 0)(whole())
    for material, task in ((of_model, "label"), (of_vectors, "classification")):
        assert (material.task, material.metric) == (task, "accuracy")
        assert sum(material.sizes.values()) == 41
    held_out = {*of_model.choose.texts, *of_model.report.texts}
    assert not held_out & set(of_model.fit)
    copies = {path / "cat" / "0.png", path / "cat" / "copy.png"}
    assert len(copies & held_out) in (0, 2)  # equal images go together
    files = [file for file in of_model.report.texts if isinstance(file, Path)]
    right = [float("cat" in file.parent.name) for file in files]
    assert of_model.report.score(np.stack([1 - np.array(right), np.array(right)], 1)).value == 1
    with pytest.raises(DataError, match="label='cat' is none of the model's: ant, dog"):
        read_material(path, [], 0)(whole(labels=("ant", "dog")))


def test_without_labels_classes_are_compared_with_the_whole_models(tmp_path: Path) -> None:
    path = images_folder(tmp_path / "images")
    material = read_material(path, [], 0)(whole(labels=("a", "b", "c", "d")))
    assert (material.task, material.metric) == ("label", "agreement")
    answers = embed([*material.choose.texts, *material.report.texts])
    own = answers[len(material.choose.texts) :]
    assert material.report.score(own).value == 1
    assert material.report.score(-own).value < 1
    chosen = answers[: len(material.choose.texts)]
    assert material.choose.score(chosen).value == pytest.approx(1)
    # Probabilities tell more than classes: these are of the same class, and worse.
    assert material.choose.score(0.5 * chosen).value < 1


def test_images_are_refused_by_name(tmp_path: Path) -> None:
    path = images_folder(tmp_path / "mixed", ("cat", "dog"))
    Image.new("RGB", (8, 8)).save(path / "loose.png")
    with pytest.raises(DataError, match=r"mixed has images, loose.png, beside folders"):
        read_material(path, [], 0)
    path = images_folder(tmp_path / "broken")
    (path / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"0.png: cannot identify"):
        read_material(path, [], 0)
    path = images_folder(tmp_path / "few", count=3)
    with pytest.raises(DataError, match="few has 3 images; needed are 30 or more"):
        read_material(path, [], 0)
    (tmp_path / "none" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="cat has no images"):
        read_material(tmp_path / "none", [], 0)
    texts = texts_file(tmp_path)
    with pytest.raises(DataError, match=r"--texts=.*texts.txt: --data=.*broken is of images"):
        read_material(tmp_path / "broken", [texts], 0)


def test_what_is_held_out_follows_the_time_that_there_is(tmp_path: Path) -> None:
    path = texts_file(tmp_path, 400)
    many, few = (read_material(path, [], 0)(whole(most)) for most in (50, 3))
    assert [many.sizes[part] for part in ("choose", "report")] == [50, 50]
    assert [few.sizes[part] for part in ("choose", "report")] == [20, 20]  # no fewer
    assert set(few.report.texts) <= set(many.report.texts)
