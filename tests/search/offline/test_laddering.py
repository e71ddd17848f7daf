from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import checkpoint
from models.checkpoint import MANIFEST, CheckpointError
from models.families.ladder import AXIS
from models.families.slimmable import Slimmable
from search.budget import Budget
from search.finders import Finders
from search.offline.laddering import ladder
from search.quality.table import TABLE, Table
from tests.tiny import tiny_model, tiny_table
from tests.tiny_text import write_text_checkpoint, write_tokenizer


def write_member(folder: Path, width: int, seed: int = 0) -> Path:
    """Write a servable network; one of more width costs more."""
    config = replace(tiny_model().config, channels=(32 * width,) * 2)
    torch.manual_seed(seed)
    model = Slimmable(f"width-{width}", config).eval().requires_grad_(False)
    folder.mkdir(parents=True)
    table = tiny_table(model, seed)
    for cells in table.cells.values():  # more width is better
        cells.value[:] *= 0.5 + width / 8
    table.save(folder / TABLE, model.space)
    checkpoint.save(folder, model, "slimmable", files=[TABLE])
    return folder


@pytest.fixture
def members(tmp_path: Path) -> list[Path]:
    """Three networks, the dearest first."""
    return [write_member(tmp_path / str(n), n, n) for n in (3, 1, 2)]


def test_members_are_ordered_by_cost_and_answer_as_they_did_alone(
    members: list[Path], tmp_path: Path
) -> None:
    ladder(members, tmp_path / "out", "ladder")
    loaded = checkpoint.load(tmp_path / "out").model
    assert list(loaded.config.members) == ["width-1", "width-2", "width-3"]
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for folder in members:
        alone = checkpoint.load(folder)
        shapes = alone.model.inputs.plan_shapes()
        largest = alone.model.space.select({None, "fish"}).largest
        whole = alone.model.plan(largest, shapes, ["fish"])
        found = loaded.plan(loaded.space.check({AXIS: alone.manifest.name}), shapes, ["fish"])
        assert found.cost == whole.cost
        values = []
        for plan in (whole, found):
            x = images
            for step in plan:
                x = step.run(x)
            values.append(x)
        assert torch.equal(values[0], values[1])


def test_the_table_has_each_members_own_score_and_the_search_goes_by_it(
    members: list[Path], tmp_path: Path
) -> None:
    ladder(members, tmp_path / "out", "ladder")
    model = checkpoint.load(tmp_path / "out").model
    table = Table.load(tmp_path / "out" / TABLE, model.space, model.tasks)
    costs = {}
    for folder in members:
        alone = checkpoint.load(folder)
        own = Table.load(folder / TABLE, alone.model.space, alone.model.tasks)
        row = [dict(one)[AXIS] for one in table.rows].index(alone.manifest.name)
        for task in model.tasks:
            expected, found = own.at(task, -1, -1), table.at(task, row, 0)
            assert found.value == pytest.approx(expected.value)
            assert found.stderr == pytest.approx(expected.stderr)
            assert found.n == expected.n
        plan = alone.model.plan(alone.model.space.largest, alone.model.inputs.plan_shapes())
        costs[alone.manifest.name] = plan.cost.macs
    finder = Finders(model, table).at()
    for macs in costs.values():
        chosen = finder.find(budget=Budget(macs=macs))
        fitting = [row for row, of in enumerate(table.rows) if costs[str(of[AXIS])] <= macs]
        best = max(fitting, key=lambda r: sum(table.retention(t)[r, 0] for t in model.tasks))
        assert chosen.subnet == table.rows[best]
    cheapest = min(costs, key=lambda one: costs[one])
    assert dict(finder.find(budget=Budget(macs=costs[cheapest])).subnet) == {AXIS: cheapest}


def test_weights_that_half_precision_holds_are_stored_so(
    members: list[Path], tmp_path: Path
) -> None:
    ladder(members[:2], tmp_path / "half", "ladder")
    parts = sum((folder / "model.safetensors").stat().st_size for folder in members[:2])
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < 1.1 * parts
    model = checkpoint.load(members[0]).model
    with torch.no_grad():
        model.stem.weight.mul_(1.0001)
    checkpoint.save(members[0], model, "slimmable", torch.float32, files=[TABLE])
    ladder(members[:2], tmp_path / "whole", "ladder")
    stored = checkpoint.load(tmp_path / "whole").model
    assert torch.equal(stored.members[1].stem.weight, model.stem.weight)


def test_encoders_of_one_tokenizer_share_it(tmp_path: Path) -> None:
    folders = [write_text_checkpoint(tmp_path / name, name) for name in ("a", "b")]
    ladder(folders, tmp_path / "out", "texts")
    assert checkpoint.load(tmp_path / "out").model.inputs["text"].type.encode("w1 w2") is not None
    # One that splits text otherwise could not read the same ids.
    path = write_tokenizer(tmp_path / "b") / "tokenizer.json"
    path.write_text(path.read_text().replace('"w9"', '"v9"'))
    checkpoint.cover(tmp_path / "b", "tokenizer.json")
    with pytest.raises(ValueError, match=r"tokenizer\.json differs from"):
        ladder(folders, tmp_path / "again", "texts")


def same_name(folders: list[Path]) -> list[Path]:
    return [folders[0], folders[0]]


def other_input(folders: list[Path]) -> list[Path]:
    values = json.loads((folders[0] / MANIFEST).read_text())
    values["config"]["input"]["mean"] = [0.1, 0.1, 0.1]
    (folders[0] / MANIFEST).write_text(json.dumps(values))
    return folders


def other_tasks(folders: list[Path]) -> list[Path]:
    return [*folders, write_text_checkpoint(folders[0].parent / "text")]


def no_table(folders: list[Path]) -> list[Path]:
    checkpoint.save(folders[0], checkpoint.load(folders[0]).model, "slimmable")
    return folders


def other_data(folders: list[Path]) -> list[Path]:
    model = checkpoint.load(folders[0]).model
    table = Table.load(folders[0] / TABLE, model.space, model.tasks)
    table.cells["fish"].n[:] = 77
    table.save(folders[0] / TABLE, model.space)
    checkpoint.cover(folders[0], TABLE)
    return folders


def a_ladder(folders: list[Path]) -> list[Path]:
    ladder(folders, folders[0].parent / "inner", "inner")
    return [folders[0], folders[0].parent / "inner"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folders: folders[:1], "must be two or more"),
        (same_name, "members must have names of their own"),
        (other_input, "inputs=.* must be those of 'width-1'"),
        (other_tasks, "tasks=.* must be those of"),
        (no_table, r"has no table\.safetensors in its manifest"),
        (other_data, "task 'fish': scores are of different data: n="),
        (a_ladder, "a ladder's member must be no ladder"),
    ],
    ids=["one", "names", "inputs", "tasks", "table", "data", "ladder"],
)
def test_what_is_no_ladder_is_refused_by_name(
    members: list[Path],
    tmp_path: Path,
    change: Callable[[list[Path]], list[Path]],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        ladder(change(members), tmp_path / "out", "ladder")
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_a_member_that_cannot_be_trusted_is_refused(members: list[Path], tmp_path: Path) -> None:
    path = members[0] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: altered"):
        ladder(members, tmp_path / "out", "ladder")


def test_a_members_broken_configuration_is_told_of_the_ladders_file(
    members: list[Path], tmp_path: Path
) -> None:
    ladder(members, tmp_path / "out", "ladder")
    path = tmp_path / "out" / MANIFEST
    values = json.loads(path.read_text())
    values["config"]["members"]["width-2"]["config"]["blocks"] = [0, 1]
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"manifest\.json.*blocks=0 must be 1 to"):
        checkpoint.load(tmp_path / "out")
