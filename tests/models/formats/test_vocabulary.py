from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE

from models.formats.folder import FormatError
from models.formats.vocabulary import prune
from models.inputs.text import TextInput
from tests.tiny_text import embed, tiny_exits, write_tokenizer

TEXTS = ["w3 w4 w9", "w50", "w1 w2 w3 w5 w8 w13"]


def test_a_pruned_model_answers_as_before(tmp_path: Path) -> None:
    model = tiny_exits()
    model.attach(write_tokenizer(tmp_path / "whole"))
    smaller = prune(model, tmp_path / "out", lambda t: t in ("w0", "w7", "w49"))
    smaller.attach(tmp_path / "out")
    assert smaller.config.encoder.vocab_size == model.config.encoder.vocab_size - 3
    rows, fewer = ([one.text.encode(text) for text in TEXTS] for one in (model, smaller))
    assert not torch.equal(rows[0], fewer[0])
    for depth in (1, 4):
        torch.testing.assert_close(embed(smaller, fewer, depth, 8), embed(model, rows, depth, 8))


def test_special_tokens_stay_whatever_is_dropped(tmp_path: Path) -> None:
    model = tiny_exits()
    model.attach(write_tokenizer(tmp_path / "whole"))
    smaller = prune(model, tmp_path / "out", lambda _: True)
    smaller.attach(tmp_path / "out")
    assert smaller.config.encoder.vocab_size == 4
    assert smaller.text.encode("w1 w2").tolist() == [2, 1, 1, 3]  # [CLS] [UNK] [UNK] [SEP]


def test_other_vocabularies_are_refused(tmp_path: Path) -> None:
    model = tiny_exits()
    model.take(TextInput(model.config.text, Tokenizer(BPE())), tmp_path)
    with pytest.raises(FormatError, match=r"model\.type='BPE'; only WordPiece"):
        prune(model, tmp_path / "out")
