"""Models that somebody could bring."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("sentence_transformers")

from bench.newcomer import main
from bench.newcomers_models import CLASSES, MAKERS, WORDS
from models import formats
from models.formats import vision


@pytest.mark.parametrize("name", ["bert", "roberta-two-dense"])
def test_folders_of_text_encoders_are_read(tmp_path: Path, name: str) -> None:
    folder, sees = MAKERS[name](tmp_path / "m", [WORDS])
    assert not sees
    assert formats.read(folder, name).config.encoder.layers == 4


def test_a_folder_of_a_vision_transformer_is_read_with_its_classes(tmp_path: Path) -> None:
    folder, sees = MAKERS["vit"](tmp_path / "m", [WORDS])
    assert sees
    (task,) = vision.read(folder, "vit").tasks.values()
    assert list(task.labels or ()) == list(CLASSES)


def test_an_unknown_model_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["newcomer", "--models", "bert,gpt"])
    with pytest.raises(SystemExit):
        main()
    assert "--models gpt: none of bert" in capsys.readouterr().err
