from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from models.train import cifar100

DATA = os.environ.get("RHEOSTAT_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="RHEOSTAT_DATA is not set")


@needs_data
def test_splits_are_whole_balanced_and_disjoint() -> None:
    assert DATA
    data = cifar100.load(Path(DATA) / "cifar100")
    assert (len(data.train), len(data.validation), len(data.test)) == (40_000, 5_000, 10_000)
    assert len(data.tasks) == 20
    assert {len(classes) for classes in data.tasks.values()} == {5}
    assert data.tasks["fish"] == ("aquarium_fish", "flatfish", "ray", "shark", "trout")
    for split, each in ((data.train, 400), (data.validation, 50), (data.test, 100)):
        counts = torch.bincount(split.task * 5 + split.label, minlength=100)
        assert set(counts.tolist()) == {each}
        assert torch.equal(split.task, split.task.sort().values)
    train = {image.numpy().tobytes() for image in data.train.pixels}
    held_out = [image.numpy().tobytes() for image in data.validation.pixels]
    # The official training set repeats a few images under two names.
    assert sum(image in train for image in held_out) <= 5


@needs_data
def test_the_split_does_not_change_between_loads() -> None:
    assert DATA
    one, two = (cifar100.load(Path(DATA) / "cifar100").validation for _ in range(2))
    assert torch.equal(one.pixels, two.pixels)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        cifar100.load(tmp_path / "nowhere")
