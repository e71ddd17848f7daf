from __future__ import annotations

import itertools
import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.checkpoint import MANIFEST, WEIGHTS
from models.core import plan_cost
from search.quality.table import TABLE
from search.timing.profile import LatencyProfile
from server import catalog
from server.catalog import Catalog, CatalogError
from server.errors import InvalidRequestError, UnknownModelError
from server.served import Served
from server.settings import Settings
from tests.tiny_text import write_text_checkpoint


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A folder with one checkpoint that a test may spoil."""
    shutil.copytree(folder, tmp_path / "models")
    return tmp_path / "models"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_folder_of_checkpoints_and_a_checkpoint_itself_can_be_loaded(folder: Path) -> None:
    assert list(catalog.load(folder)) == ["tiny"]
    assert list(catalog.load(folder / "tiny")) == ["tiny"]


def test_models_are_ordered_by_folder_and_other_folders_ignored(copy: Path) -> None:
    shutil.copytree(copy / "tiny", copy / "a")
    edit(copy / "a" / MANIFEST, '"tiny"', '"zebra"')
    (copy / "notes").mkdir()
    (copy / "readme.txt").write_text("models")
    assert list(catalog.load(copy)) == ["zebra", "tiny"]


def test_a_model_knows_when_its_checkpoint_was_written(folder: Path, served: Served) -> None:
    assert served.created_s == int((folder / "tiny" / MANIFEST).stat().st_mtime)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"nowhere is not a folder"):
        catalog.load(tmp_path / "nowhere")


def test_a_file_instead_of_a_folder_is_named(copy: Path) -> None:
    with pytest.raises(CatalogError, match=r"model.safetensors is not a folder"):
        catalog.load(copy / "tiny" / WEIGHTS)


def test_a_folder_without_models_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=rf"{tmp_path.name} holds no checkpoint: no manifest"):
        catalog.load(tmp_path)


def test_two_models_of_one_name_are_both_named(copy: Path) -> None:
    shutil.copytree(copy / "tiny", copy / "again")
    with pytest.raises(CatalogError, match=r"again and .*tiny are both named 'tiny'"):
        catalog.load(copy)


def test_a_checkpoint_without_a_table_is_named(copy: Path) -> None:
    manifest = json.loads((copy / "tiny" / MANIFEST).read_text())
    del manifest["files"][TABLE]
    (copy / "tiny" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CatalogError, match=rf"tiny has no {TABLE} in its manifest"):
        catalog.load(copy)


@pytest.mark.parametrize("name", [WEIGHTS, TABLE])
def test_a_file_that_is_gone_is_named(copy: Path, name: str) -> None:
    (copy / "tiny" / name).unlink()
    with pytest.raises(CatalogError, match=f"tiny/{name} does not exist"):
        catalog.load(copy)


@pytest.mark.parametrize("name", [WEIGHTS, TABLE])
@pytest.mark.parametrize("size", [0, 5, 200, -10])
def test_a_truncated_file_is_named(copy: Path, name: str, size: int) -> None:
    path = copy / "tiny" / name
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CatalogError, match=f"tiny/{name}: "):
        catalog.load(copy)


def test_a_manifest_that_is_no_json_is_named(copy: Path) -> None:
    (copy / "tiny" / MANIFEST).write_text("{")
    with pytest.raises(CatalogError, match=f"tiny/{MANIFEST}: not JSON"):
        catalog.load(copy)


def test_a_pickle_in_place_of_weights_is_refused_by_name(copy: Path) -> None:
    (copy / "tiny" / WEIGHTS).write_bytes(pickle.dumps({"weights": 1}))
    with pytest.raises(CatalogError, match=f"{WEIGHTS}: .*pickle"):
        catalog.load(copy)


def test_a_pickle_beside_the_manifest_is_refused_by_name(copy: Path) -> None:
    edit(copy / "tiny" / MANIFEST, WEIGHTS, "model.pt")
    (copy / "tiny" / WEIGHTS).rename(copy / "tiny" / "model.pt")
    with pytest.raises(CatalogError, match=r"tiny/.*(model.pt|model.safetensors)"):
        catalog.load(copy)


def test_a_model_is_chosen_by_name_and_the_only_one_without(served: Served) -> None:
    models = Catalog([served])
    assert models.choose("tiny") is served
    assert models.choose(None) is served


def test_an_unknown_model_is_refused_with_those_there_are(served: Served) -> None:
    with pytest.raises(UnknownModelError, match="model='huge' is not served; one of ") as caught:
        Catalog([served]).choose("huge")
    assert caught.value.field == "model"


def test_a_name_is_required_where_there_are_several(copy: Path, served: Served) -> None:
    edit(copy / "tiny" / MANIFEST, '"tiny"', '"other"')
    models = Catalog([served, *catalog.load(copy).values()])
    with pytest.raises(InvalidRequestError, match=r"model is required; one of \['tiny', 'other'\]"):
        models.choose(None)


def test_a_name_is_not_required_where_one_model_takes_such_inputs(
    served: Served, tmp_path: Path
) -> None:
    text = catalog.load(write_text_checkpoint(tmp_path / "text")).choose(None)
    models = Catalog([served, text])
    assert models.choose(None, "image") is served
    assert models.choose(None, "text") is text
    with pytest.raises(InvalidRequestError, match="model is required; one of"):
        models.choose(None)


def test_a_catalogue_has_no_name_twice(served: Served) -> None:
    with pytest.raises(CatalogError, match="are both named 'tiny'"):
        Catalog([served, served])


def test_a_plan_is_made_once_and_holds_only_the_asked_tasks(served: Served) -> None:
    space = served.elastic.space
    one = served.prepare(space.select({None, "fish"}).largest, ["fish"])
    assert served.prepare(space.select({None, "fish"}).largest, ("fish",)) is one
    both = served.prepare(space.select({None, "fish", "people"}).largest, ["fish", "people"])
    assert set(one.plan.answers) == {"fish"}
    assert set(both.plan.answers) == {"fish", "people"}
    assert plan_cost(one.plan).macs < plan_cost(both.plan).macs


def test_a_measured_model_keeps_its_searches_and_runs_by_its_own_profile(served: Served) -> None:
    finder, smallest = served.finder, served.elastic.space.smallest
    _ = served.prepare(smallest, served.elastic.tasks)
    seconds = np.ones((1, 1, 1))
    profile = LatencyProfile(dict.fromkeys(served.finders.functions, 0), (1,), (0,), seconds)
    timed = served.timed(profile)
    assert timed.finder is finder
    prepared = timed.prepare(smallest, served.elastic.tasks)
    assert prepared.profile is profile


def test_the_front_rises_from_cheapest_to_largest(served: Served) -> None:
    front = served.front
    assert front[0].cost == plan_cost(
        served.prepare(served.elastic.space.smallest, served.elastic.tasks).plan
    )
    for cheaper, better in itertools.pairwise(front):
        assert cheaper.cost.macs < better.cost.macs
        assert cheaper.quality < better.quality


def test_a_request_that_names_no_model_means_the_first_default_that_takes_its_inputs(
    served: Served, text_settings: Settings
) -> None:
    tiny, text = catalog.load(text_settings.models_folder).values()
    second = replace(text, name="second")
    models = Catalog([tiny, text, second], ["second", "tiny"])
    assert models.choose(None, "text") is second
    assert models.choose(None, "image") is tiny
    assert models.choose(None) is second
    with pytest.raises(InvalidRequestError, match=r"one of \['tiny-text', 'second'\]"):
        Catalog([tiny, text, second], ["tiny"]).choose(None, "text")
    with pytest.raises(CatalogError, match="default_models: 'other' is not served"):
        Catalog([tiny], ["other"])
