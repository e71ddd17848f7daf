"""From a public folder and a user's file to a served elastic checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from typer.testing import CliRunner

from models import formats
from models.nn.transformer import FeedForward
from search.offline.elastic_checkpoint import elasticize, whole_model
from search.offline.elasticizing import Run
from search.offline.errors import RecordError
from search.offline.front_page import PAGE, PICTURE
from search.offline.material import Material, read_material
from search.offline.options import RunOptions, named
from search.offline.record import Record
from search.offline.whole import whole_of
from server import catalog
from server.cli.main import cli
from tests.models.formats.public import write_folder


class Clock:
    """Time that passes a little with every look at it."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    write_folder(folder, "bert")
    return folder


def sentence(rng: Random) -> str:
    return " ".join(f"w{rng.randrange(56)}" for _ in range(rng.randint(2, 7)))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = Random(0)
    path = tmp_path_factory.mktemp("data") / "texts.txt"
    path.write_text("\n".join(sentence(rng) for _ in range(300)) + "\n")
    return path


def run_of(
    source: Path, texts: Path, clock: Clock, record: Record | None = None, **fields: object
) -> tuple[Run, Material]:
    base = whole_model(source, "tiny")
    options = RunOptions(**{"seconds": 1000.0, "keep": (0.5, 0.8), "trials": 3, **fields})  # type: ignore[arg-type]
    material = read_material(texts, [], 0)(whole_of(base, options, Clock(0.001)))
    base = whole_model(source, "tiny", (material.task, material.metric))
    return Run(base, "exits", material, options, record or Record(), clock), material


def test_a_folder_becomes_a_served_checkpoint_with_its_front(
    source: Path, texts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    arguments = ["elasticize", str(source), "--data", str(texts), "--out", str(out)]
    arguments += ["--minutes", "0.05", "--keep", "0.5,0.8", "--name", "mine"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    served = catalog.load(out).choose("mine")
    assert [axis.name for axis in served.elastic.space.axes] == ["bits", "keep", "dim"]
    cells = served.table.cells["similarity"]
    assert served.elastic.tasks["similarity"].metric == "agreement"
    scores = dict(zip(served.table.rows, cells.value[:, 0].tolist(), strict=True))
    whole = served.elastic.space.largest
    assert scores[whole] == pytest.approx(1, abs=1e-4)
    assert 0.3 < scores[whole | {"keep": 0.5}] < scores[whole | {"keep": 0.8}] < 1
    shapes = {"text": (6,)}
    costs = [
        served.elastic.plan(whole | {"keep": keep}, shapes).cost.macs for keep in (0.5, 0.8, 1.0)
    ]
    assert costs == sorted(costs)
    card = (out / "README.md").read_text()
    assert f"on {cells.n[0, 0]} held-out examples" in card
    tokens, inputs = int(card.partition("**Fit**: on ")[2].split()[0]), 64
    assert ("with more --minutes or more texts" in caplog.text) == (tokens < 5 * inputs)
    assert "| contribution | 0." in card
    assert all(line in result.output for line in ("keep  bits", "0.5     8", "0.8    32"))
    with Image.open(out / PICTURE) as picture:
        assert picture.size == (1200, 760)
    page = (out / PAGE).read_text()
    assert "data:image/png;base64," in page
    assert "http" not in page
    # A later run of the same data goes on; one of other data does not.
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    other = tmp_path / "other.txt"
    other.write_text(texts.read_text() + "w1 w2 w3 w4 w5 w6\n")
    arguments[3] = str(other)
    refused = CliRunner().invoke(cli, arguments)
    assert refused.exit_code == 2
    assert "trials.jsonl is of another run" in refused.output


def test_every_cut_is_within_its_budget_and_the_best_that_was_measured(
    source: Path, texts: Path
) -> None:
    record = Record()
    run, _ = run_of(source, texts, Clock(0.001), record, rankings=("contribution",), trials=6)
    found = run.run()
    layers = formats.read(source, "tiny").layers
    whole = sum(layer.macs(4, 24, found.length) for layer in layers)  # type: ignore[operator]
    shapes = {"text": (found.length,)}
    space = found.model.space
    for keep in (0.5, 0.8):
        assert found.trials[keep] == 6
        plan = found.model.plan(space.largest | {"keep": keep}, shapes)
        layers_cost = plan.cost.macs  # the answer of this model costs nothing
        assert layers_cost <= keep * whole
        best = max(record.of(keep), key=lambda forms: record.score(forms))
        assert [form.kind for form in found.model.config.cut(keep)] == [f.kind for f in best]


def test_a_run_ends_in_time_with_a_cut_for_every_budget(source: Path, texts: Path) -> None:
    clock = Clock(1.0)
    run, _ = run_of(source, texts, clock, seconds=200.0, trials=None, rankings=("random",))
    found = run.run()
    assert clock.now <= 200
    assert found.model.config.keep == (0.5, 0.8, 1.0)
    assert min(found.trials.values()) > 3
    hurried, _ = run_of(source, texts, Clock(1.0), seconds=1.0, rankings=("random",))
    assert hurried.run().trials == {0.5: 1, 0.8: 1}


class Work:
    """Time that passes with the tokens that go through layers, and a little with every look."""

    def __init__(self, seconds_per_token: float) -> None:
        self.now, self._pace = 0.0, seconds_per_token

    def __call__(self) -> float:
        self.now += 0.001
        return self.now

    def count(self, module: nn.Module, taken: tuple[Any, ...], _: object) -> None:
        if isinstance(module, FeedForward):
            self.now += self._pace * len(taken[0])


def test_the_table_is_measured_within_the_time_however_many_texts_are_held_out(
    source: Path, tmp_path: Path
) -> None:
    rng = Random(1)
    path = tmp_path / "texts.txt"
    long = [" ".join(f"w{rng.randrange(56)}" for _ in range(8)) for _ in range(3000)]
    path.write_text("\n".join(long))
    clock = Work(1e-3)
    counting = register_module_forward_hook(clock.count)
    try:
        elasticize(
            source,
            tmp_path / "out",
            "tiny",
            read_material(path, [], 0),
            RunOptions(seconds=200.0, keep=(0.5, 0.8), rankings=("contribution",)),
            {},
            clock,
            lambda _: None,
        )
    finally:
        counting.remove()
    assert 100 < clock.now <= 200
    table = catalog.load(tmp_path / "out").choose("tiny").table
    n = int(table.cells["similarity"].n[0, 0])
    assert 20 <= n < 600  # of the 600 that are held out


def test_an_interrupted_run_goes_on_from_what_it_measured(
    source: Path, texts: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run" / "trials.jsonl"
    run, _ = run_of(source, texts, Clock(0.001), Record(path, {"data": 1}), trials=2)
    first = run.run()
    assert first.rankings.keys() == set(named(None))
    assert first.rankings[first.ranking] == max(first.rankings.values())
    with path.open("a") as file:
        file.write('{"keep": 0.5, "fo')  # what a crash in the middle of a line leaves
    record = Record(path, {"data": 1})
    again, _ = run_of(source, texts, Clock(0.001), record, trials=2)
    lines = len(path.read_text().splitlines())
    second = again.run()
    assert second.rankings == first.rankings
    assert second.ranking == first.ranking
    assert second.model.config == first.model.config
    assert len(path.read_text().splitlines()) == lines
    with pytest.raises(RecordError, match="is of another run"):
        Record(path, {"data": 2})
    path.write_text("not JSON\n" + path.read_text())
    with pytest.raises(RecordError, match="is damaged; remove it"):
        Record(path, {"data": 1})


def test_options_are_refused_by_name() -> None:
    for fields, words in (
        ({"keep": (0.5, 1.0)}, r"keep=\[0.5, 1.0\] must ascend"),
        ({"keep": (0.8, 0.5)}, r"keep=\[0.8, 0.5\] must ascend"),
        ({"rankings": ()}, r"rankings=\[\] must be of"),
        ({"seconds": 0}, "seconds=0 must be above 0"),
    ):
        with pytest.raises(ValueError, match=words):
            RunOptions(**{"seconds": 1, **fields})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'luck' must be one of"):
        named("random,luck")
    assert named("random,magnitude") == ("random", "magnitude")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--keep", "half"], "--keep=half must be shares"),
        (["--rankings", "luck"], "'luck' must be one of"),
        (["--minutes", "0"], "seconds=0.0 must be above 0"),
    ],
)
def test_a_wrong_option_ends_with_one_line(
    source: Path, texts: Path, tmp_path: Path, option: list[str], words: str
) -> None:
    arguments = ["elasticize", str(source), "--data", str(texts), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(cli, [*arguments, *option])
    assert result.exit_code == 2
    assert words in result.output
    assert not (tmp_path / "out").exists()


def test_records_are_lines_of_json(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    Record(path, {"data": 1}).add_rankings("random", {"random": 0.5})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"about": {"data": 1}},
        {"winner": "random", "scores": {"random": 0.5}},
    ]
    assert Record(path, {"data": 1}).rankings.winner == "random"
