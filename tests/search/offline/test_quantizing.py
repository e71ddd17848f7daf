from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models import checkpoint
from models.backends.torch import TorchBackend
from models.checkpoint import WEIGHTS
from models.families.headed import Headed, HeadedConfig
from models.inputs.image import ImageInput
from models.nn.calibrated import calibrated
from models.nn.head import HeadLayer
from models.nn.patches import PatchConfig
from models.train.cifar100 import Cifar100
from models.train.statistics import only
from models.train.texts import ScoredPair
from search.offline.measuring import Texts, read_labelled
from search.offline.measuring_tasks import measure_tasks
from search.offline.quantizing import (
    quantize,
    quantize_images,
    quantize_labelled,
    quantize_tasks,
    ranges_of,
)
from search.offline.training import by_task
from search.quality.embeddings import Measured, SimilarityQuality, table_of
from search.quality.measure import measure
from search.quality.table import TABLE, Table
from tests.conformance.fixtures.convnet import tiny_residual
from tests.models.train.test_slimmable import made_up_images
from tests.search.offline.test_measuring_tasks import EVERY
from tests.search.offline.test_static_exit import write_pruned
from tests.tiny import write_checkpoint
from tests.tiny_text import exits_config, randomise, write_text_checkpoint

PAIRS = [ScoredPair(f"w{i} w{i + 1} w3", f"w{i + 2} w5 w{i}", i % 5) for i in range(12)]


def test_a_checkpoint_gains_measured_rows_of_8_bits_and_keeps_weights_and_rows(
    tmp_path: Path,
) -> None:
    folder = write_text_checkpoint(tmp_path)
    before = checkpoint.load(folder)
    old = Table.load(folder / TABLE, before.model.space, before.model.tasks)
    quantize(folder, Texts(SimilarityQuality(PAIRS)))
    after = checkpoint.load(folder)
    name = "model.safetensors"
    assert after.manifest.files[name] == before.manifest.files[name]
    table = Table.load(folder / TABLE, after.model.space, after.model.tasks)
    count = len(old.rows)
    assert [row["bits"] for row in table.rows] == [8] * count + [32] * count
    cells, own = table.cells["similarity"], old.cells["similarity"]
    np.testing.assert_array_equal(cells.value[count:], own.value)
    assert (cells.n[:count] == len(PAIRS)).all()
    assert (cells.expected[:count] <= cells.expected[count:]).all()
    # How far rounded weights agree was not measured, so it is not taken from the others.
    assert np.isnan(cells.known_agreement[:count]).all()
    assert np.isfinite(cells.known_error).all()
    with pytest.raises(ValueError, match=r"bits=\[8, 32\] are on offer already"):
        quantize(folder, Texts(SimilarityQuality(PAIRS)))


def test_a_text_encoder_with_several_tasks_is_measured_anew_with_both_bits(tmp_path: Path) -> None:
    folder = write_pruned(tmp_path / "pruned", bits=(32,))
    measure_tasks(folder, EVERY)
    before = checkpoint.load(folder)
    old = Table.load(folder / TABLE, before.model.space, before.model.tasks)
    with pytest.raises(ValueError, match=r"its tasks are .*, those of the data"):
        quantize_tasks(folder, EVERY[:1])
    found = quantize_tasks(folder, EVERY)
    after = checkpoint.load(folder)
    assert after.manifest.files[WEIGHTS] == before.manifest.files[WEIGHTS]
    table = Table.load(folder / TABLE, after.model.space, after.model.tasks)
    count = len(old.rows)
    assert [row["bits"] for row in table.rows] == [8] * count + [32] * count
    assert list(found) == list(table.cells) == list(old.cells)
    for task, cells in table.cells.items():
        np.testing.assert_allclose(cells.value[count:], old.cells[task].value, atol=1e-6)
        assert (cells.expected[:count] <= cells.expected[count:]).all()
        assert np.isfinite(cells.known_agreement).all()
        whole, few = found[task]
        assert [few.value, whole.value] == pytest.approx(cells.value[[count - 1, -1], 0], abs=1e-6)
    with pytest.raises(ValueError, match=r"bits=\[8, 32\] are on offer already"):
        quantize_tasks(folder, EVERY)


def test_an_image_model_gains_calibrated_rows_of_8_bits(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    before = checkpoint.load(folder)
    old = Table.load(folder / TABLE, before.model.space, before.model.tasks)
    images = made_up_images(48)
    splits = Cifar100(before.model.config.tasks, images, images, images)
    whole, few = quantize_images(folder, splits)
    after = checkpoint.load(folder)
    assert after.manifest.files[WEIGHTS] == before.manifest.files[WEIGHTS]
    assert after.model.config.ranges.keys() == calibrated(after.model).keys()
    table = Table.load(folder / TABLE, after.model.space, after.model.tasks)
    count = len(old.rows)
    assert [row["bits"] for row in table.rows] == [8] * count + [32] * count
    assert [row | {"bits": 32} for row in table.rows[:count]] == list(table.rows[count:])
    for task, cells in table.cells.items():
        own = old.cells[task]
        np.testing.assert_array_equal(cells.value[count:], own.value)
        assert (cells.expected[:count] <= cells.expected[count:]).all()
        assert (cells.n[:count] == int((images.task == list(table.cells).index(task)).sum())).all()
    assert whole == pytest.approx(np.mean([own.value[-1, -1] for own in old.cells.values()]))
    # What rounding changes of the largest subnet is little.
    found = measure(after.model, TorchBackend(), by_task(after.model, images), within={"bits": 32})
    largest = np.mean([own.value[-1, -1] for own in found.cells.values()])
    assert few == pytest.approx(largest, abs=0.1)
    with pytest.raises(ValueError, match=r"bits=\[8, 32\] are on offer already"):
        quantize_images(folder, splits)


def write_classifier(folder: Path) -> Path:
    """Write a vision transformer of two classes, and images with theirs; return their list."""
    encoder = replace(exits_config("post").encoder, norm="pre", embedding_norm=False, vocab_size=1)
    image = ImageInput(8, 8, (0.5,) * 3, (0.5,) * 3)
    config = HeadedConfig(
        encoder,
        "label",
        "classes",
        depths=(2, 4),
        labels=("dark", "light"),
        image=PatchConfig(image, 4),
        exit_norm="final",
        head=(HeadLayer("linear", 2),),
    )
    model = Headed("seen", config)
    randomise(model)
    lines = ["file,label"]
    for i in range(8):
        Image.new("RGB", (8, 8), (30 * i,) * 3).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{config.labels[i // 4]}")
    listed = folder / "labels.csv"
    listed.write_text("\n".join(lines))
    subnets = list(model.space)
    found = read_labelled(listed, image, config.labels, 0)(model, subnets)
    found = [one._replace(value=max(one.value, 0.1)) for one in found]  # scores are above 0
    table_of(model, subnets, {"label": found}).save(folder / TABLE, model.space)
    checkpoint.save(folder, model, "headed", torch.float32, files=[TABLE])
    return listed


def test_a_vision_transformer_is_measured_on_images_with_their_classes(tmp_path: Path) -> None:
    listed = write_classifier(tmp_path)
    before, after = quantize_labelled(tmp_path, listed)
    assert (before.n, after.n) == (8, 8)
    loaded = checkpoint.load(tmp_path)
    table = Table.load(tmp_path / TABLE, loaded.model.space, loaded.model.tasks)
    assert [row["bits"] for row in table.rows] == [8, 8, 32, 32]
    found = read_labelled(listed, loaded.model.config.image.input, ("dark", "light"), 0)
    own = found(loaded.model, list(table.rows[:2]))
    assert table.cells["label"].value[:2, 0].tolist() == pytest.approx([one.value for one in own])
    with pytest.raises(ValueError, match="--images needs a model of images with one task"):
        quantize_labelled(write_checkpoint(tmp_path / "several"), listed)


def test_a_convolutional_classifier_is_calibrated_on_some_images_and_scored_on_the_others(
    tmp_path: Path,
) -> None:
    model = tiny_residual()
    labels = model.config.labels
    lines = ["file,label"]
    for i in range(24):
        Image.new("RGB", (32, 32), (10 * i, 250 - 10 * i, 120)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{labels[i % 3]}")
    listed = tmp_path / "labels.csv"
    listed.write_text("\n".join(lines))
    subnets = list(model.space)
    found = [Measured(0.5, 100, 0.05)] * len(subnets)
    table_of(model, subnets, {"label": found}).save(tmp_path / TABLE, model.space)
    checkpoint.save(tmp_path, model, "convnet", torch.float32, files=[TABLE])
    before = checkpoint.read_manifest(tmp_path)
    whole, few = quantize_labelled(tmp_path, listed)
    assert (whole.n, few.n) == (100, 12)
    loaded = checkpoint.load(tmp_path)
    assert loaded.manifest.files[WEIGHTS] == before.files[WEIGHTS]
    images = read_labelled(listed, model.config.input, labels, 0).images[:12]
    assert loaded.model.config.ranges == ranges_of(model, images)
    assert [row["bits"] for row in loaded.model.space] == [8, 8, 32, 32]
    table = Table.load(tmp_path / TABLE, loaded.model.space, loaded.model.tasks)
    assert (table.cells["label"].expected[:2] <= table.cells["label"].expected[2:]).all()
    with pytest.raises(ValueError, match=r"bits=\[8, 32\] fix the subnets it lists"):
        only(loaded.model, [loaded.model.space.smallest])
