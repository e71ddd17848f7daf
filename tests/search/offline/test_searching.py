from __future__ import annotations

import csv
import json
from pathlib import Path
from random import Random

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from models import checkpoint
from models.backends.torch import TorchBackend
from models.families.convnet import Convnet
from models.run.weights import weight_bytes
from models.variants import loaded
from search.offline import searching
from search.offline.converting import read_pairs
from search.offline.front_chart import chart
from search.offline.genes import gene_space, genes_of
from search.offline.measuring import Labelled, Texts, measured, read_labelled
from search.offline.quantizing import quantize
from search.offline.searching import MEASURED, RECORD, Search, SearchPlan, prepared
from search.quality.embeddings import SimilarityQuality
from search.quality.table import TABLE, Table
from server import catalog
from server.cli.main import cli
from tests.conformance.fixtures.convnet import IMAGE, LABELS, tiny_residual, tiny_supernet
from tests.models.formats import slimmable_files as files
from tests.search.offline.test_converting import write_pairs
from tests.tiny_text import tiny_exits, write_text_checkpoint

pytest.importorskip("pymoo")
pytest.importorskip("sklearn")


def write_images(folder: Path, count: int = 24, labels: tuple[str, ...] = LABELS) -> Path:
    """Write a CSV of small pictures of one colour each."""
    rng = Random(0)
    rows = []
    for i in range(count):
        colour = tuple(rng.randrange(256) for _ in range(3))
        Image.new("RGB", (40, 36), colour).save(folder / f"{i}.png")
        rows.append({"file": f"{i}.png", "label": labels[i % len(labels)]})
    path = folder / "labels.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "label"])
        writer.writeheader()
        writer.writerows(rows)
    return path


def run(model: Convnet, data: Path, out: Path, plan: SearchPlan) -> Search:
    search = prepared(model, plan, data, out, images=8)
    search.run()
    return search


PLAN = SearchPlan(("quality", "macs", "bytes"), evaluations=14, population=6)


def test_a_supernet_becomes_a_served_checkpoint_of_measured_rows(tmp_path: Path) -> None:
    data = write_images(tmp_path)
    out = tmp_path / "out"
    search = run(tiny_supernet(), data, out, PLAN)
    assert len(search.found) == 14
    front = searching.write(search, "convnet")
    served = catalog.load_one(out)
    rows = served.table.rows
    assert len(rows) == len(front)
    assert rows[-1] == served.elastic.space.largest
    assert tuple(served.elastic.space) == rows
    (cells,) = served.table.cells.values()
    assert cells.measured.all()
    assert (cells.n == 24 - 8).all()
    # What the table says is what the stored model scores on the same images.
    labelled = read_labelled(data, IMAGE, LABELS, PLAN.seed).split(8)[1]
    again = Labelled(labelled.images, labelled.labels)(served.model, rows)
    assert [score.value for score in again] == pytest.approx(cells.value[:, 0].tolist())
    assert (out / "front-macs.svg").read_text().startswith("<svg")


def test_a_search_that_was_stopped_goes_on_with_the_statistics_that_were_measured(
    tmp_path: Path,
) -> None:
    data, out = write_images(tmp_path), tmp_path / "out"
    first = run(tiny_supernet(), data, out, SearchPlan(PLAN.objectives, 8, 6))
    lines = (out / RECORD).read_text().splitlines()
    assert len(lines) == 1 + 8
    before = checkpoint.load(out / MEASURED).model
    second = run(tiny_supernet(), data, out, PLAN)
    assert len(second.found) == 14
    assert {genes: second.found[genes] for genes in first.found} == first.found
    assert (out / RECORD).read_text().splitlines()[: len(lines)] == lines
    for subnet in before.space:
        x = {"image": torch.randn(1, *IMAGE.shape)}
        plans = [one.plan(subnet, {"image": IMAGE.shape}) for one in (before, second.model)]
        answers = [TorchBackend().run(plan, x)["label"] for plan in plans]
        assert torch.equal(*answers)


def test_a_record_of_another_search_is_refused(tmp_path: Path) -> None:
    data = write_images(tmp_path)
    run(tiny_residual(), data, tmp_path / "out", SearchPlan(evaluations=2))
    with pytest.raises(ValueError, match=r"search\.jsonl is of another search: objectives differ"):
        prepared(tiny_residual(), PLAN, data, tmp_path / "out", images=8)
    with pytest.raises(ValueError, match="axes, model differ"):
        prepared(tiny_supernet(), SearchPlan(), data, tmp_path / "out", images=8)
    other = write_images(tmp_path, 12)
    with pytest.raises(ValueError, match="another search: data differ"):
        prepared(tiny_residual(), SearchPlan(), other, tmp_path / "out", images=8)


def test_a_line_that_was_not_finished_is_measured_again(tmp_path: Path) -> None:
    data, out = write_images(tmp_path), tmp_path / "out"
    run(tiny_residual(), data, out, SearchPlan(evaluations=2))
    whole = (out / RECORD).read_text()
    (out / RECORD).write_text(whole[:-9])
    search = prepared(tiny_residual(), SearchPlan(evaluations=2), data, out, images=8)
    assert len(search.found) == 1
    search.run()
    assert (out / RECORD).read_text() == whole


def test_genes_that_do_not_go_together_become_the_nearest_that_do() -> None:
    model = tiny_exits(pairs=((1, 4), (2, 8), (4, 16)), dims=(4, 8, 16), depths=(1, 2, 4))
    space = gene_space(model)
    every = {genes_of(model.space, subnet) for subnet in model.space}
    assert {space.canonical(genes) for genes in every} == every
    wrong = list(next(iter(every)))
    wrong[0] = (wrong[0] + 1) % 3
    assert space.canonical(tuple(wrong)) in every


def test_all_widths_of_a_slimmable_file_are_measured_by_the_command_and_served(
    tmp_path: Path,
) -> None:
    widths = (0.5, 0.75, 1.0)
    state = files.random_file("mobilenet-v1", widths, universal=False).state
    torch.save(files.parallel(state), tmp_path / "net.pt")
    data = write_images(tmp_path, 8, ("0", "1", "2", "3"))
    options = ["--format", "slimmable-mobilenet-v1", "--widths", "0.5,0.75,1"]
    options += ["--out", str(tmp_path / "out"), "--data", str(data), "--name", "slim"]
    result = CliRunner().invoke(cli, ["search", str(tmp_path / "net.pt"), *options])
    assert result.exit_code == 0, result.output
    assert "3 measured" in result.output
    served = catalog.load_one(tmp_path / "out")
    assert served.name == "slim"
    assert served.elastic.space.largest == served.table.rows[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "nothing"], "format='nothing'; allowed: one of"),
        (["--format", "slimmable-mobilenet-v1"], "widths go with slimmable formats"),
        (["--format", "slimmable-mobilenet-v1", "--widths", "a"], "--widths=a must be numbers"),
        (["--objectives", "macs"], "objectives=macs must be quality"),
        ([], "does not exist"),
    ],
)
def test_the_command_names_the_option_at_fault(
    options: list[str], message: str, tmp_path: Path
) -> None:
    given = ["--out", str(tmp_path / "out"), "--data", str(tmp_path / "none.csv"), *options]
    result = CliRunner().invoke(cli, ["search", str(tmp_path / "net.pt"), *given])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_subnets_and_bits_of_a_text_encoder_are_searched_together(tmp_path: Path) -> None:
    source = write_text_checkpoint(tmp_path / "tiny")
    data = write_pairs(
        tmp_path / "pairs.tsv",
        [(f"w{i} w{i + 1} w3", f"w{i + 2} w5 w{i}", 5 - i % 5) for i in range(12)],
    )
    quantize(source, Texts(SimilarityQuality(read_pairs(data))))
    options = ["--out", str(tmp_path / "out"), "--data", str(data), "--evaluations", "12"]
    options += ["--population", "6", "--objectives", "quality,macs,ms,bytes"]
    result = CliRunner().invoke(cli, ["search", str(source), *options])
    assert result.exit_code == 0, result.output
    lines = (tmp_path / "out" / RECORD).read_text().splitlines()
    assert len(lines) == 1 + 12
    bits = {json.loads(line)["genes"][0] for line in lines[1:]}
    assert bits == {0, 1}
    served = catalog.load_one(tmp_path / "out")
    # What a server runs before it answers: its steps are timed because their rows are there.
    space = served.elastic.space
    assert {space.smallest, space.smallest | loaded(space)} <= set(served.table.rows)
    table = Table.load(tmp_path / "out" / TABLE, served.elastic.space, served.elastic.tasks)
    assert all(cells.measured.all() for cells in table.cells.values())


def test_a_model_that_scores_nothing_on_the_data_is_refused_before_the_search(
    tmp_path: Path,
) -> None:
    source = write_text_checkpoint(tmp_path / "tiny")
    pairs = [(f"w{i} w{i + 1} w3", f"w{i + 2} w5 w{i}", i % 5) for i in range(12)]
    data = write_pairs(tmp_path / "pairs.tsv", [*pairs])
    search = prepared(checkpoint.load(source).model, SearchPlan(), data, tmp_path / "out", images=1)
    with pytest.raises(ValueError, match=r"tiny-text scores -0\.\d+ with its largest subnet"):
        search.run()
    assert len(search.found) == len(search.ends)


def test_bytes_are_those_of_the_weights_that_are_read(tmp_path: Path) -> None:
    model = tiny_residual()
    subnet = model.choices.smallest
    read = weight_bytes(
        model, model.plan(subnet, {"image": IMAGE.shape}), {"image": torch.randn(1, *IMAGE.shape)}
    )
    channels = sum(choice.out for one in model.path(subnet) for choice in one.choices)
    # Parameters, and a mean and a variance for each channel.
    assert read == 4 * (model.parameters_of(subnet) + 2 * channels)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objectives": ("quality",)}, "quality, then one or more of macs, ms, bytes"),
        ({"objectives": ("macs", "quality")}, "must be quality, then"),
        ({"objectives": ("quality", "cost")}, "objectives=quality,cost"),
        ({"objectives": ("quality", "macs", "macs")}, "each once"),
        ({"evaluations": 1}, "evaluations=1 must be 2 or more"),
    ],
)
def test_what_cannot_be_searched_for_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchPlan(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,class\n0.png,round\n", "has no column 'label'"),
        ("file,label\n0.png,oval\n", r"line 2: label='oval' is none of the model's"),
        ("file,label\nnone.png,round\n", "none.png does not exist"),
        ("file,label\nlabels.csv,round\n", r"line 2: .*labels.csv: "),
        ("file,label\n", "names no image"),
    ],
)
def test_a_file_of_labels_that_does_not_fit_is_refused_by_line(
    text: str, message: str, tmp_path: Path
) -> None:
    path = write_images(tmp_path, 3)
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_labelled(path, IMAGE, LABELS, 0)


def test_milliseconds_are_the_median_of_some_runs() -> None:
    model = tiny_residual()
    ticks = iter(range(1000))
    ((_, values),) = measured(
        model,
        [model.choices.largest],
        Labelled(torch.randn(2, *IMAGE.shape), torch.tensor([0, 1])),
        ("quality", "ms"),
        lambda: float(next(ticks)),
    )
    assert values[1] == 1000.0


def test_a_chart_has_a_dot_for_each_point_and_escapes_names() -> None:
    drawn = chart("a < b", "macs", "accuracy", [(1, 0.5), (2, 0.25)], [(1, 0.5)])
    assert drawn.count("<circle") == 3
    assert "a &lt; b" in drawn
    assert chart("one", "ms", "map", [(1, 1)], [(1, 1)]).count("<circle") == 2
