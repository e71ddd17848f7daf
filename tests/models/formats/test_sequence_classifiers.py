"""Text classifiers and cross-encoders against transformers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models import checkpoint
from models.families.headed import Headed
from models.formats import FormatError, write
from models.formats.sequence_classifiers import read
from models.nn.ragged import Ragged
from tests.models.formats.public import _MORE, _USUAL, BY_FILE, change_json
from tests.tiny_text import VOCABULARY, randomise, write_tokenizer
from tests.walking import answers_of

transformers = pytest.importorskip("transformers")

KINDS = ("bert", "roberta", "xlm-roberta", "distilbert", "mpnet", "modernbert")
TEXTS = ("w1 w2 w3", "w4", "w5 w6 w7 w8")
PAIRS = (("w1 w2", "w3 w4 w5"), ("w9", "w8"), ("w5 w6 w7", "w1"))


def write_classifier(folder: Path, kind: str, labels: int = 3, **fields: Any) -> Any:
    """Write a small folder and return the public model."""
    usual = {} if kind == "distilbert" else _USUAL
    config = transformers.AutoConfig.for_model(
        kind, **{**usual, "vocab_size": VOCABULARY, **_MORE[kind], **fields}, num_labels=labels
    )
    public = transformers.AutoModelForSequenceClassification.from_config(
        config, attn_implementation="eager"
    ).eval()
    randomise(public)
    public.save_pretrained(folder)
    write_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": BY_FILE, "pad_token": "[PAD]"})
    )
    return public


def answers(model: Headed, *texts: tuple[str, ...]) -> Tensor:
    """Answer one item after the other."""
    found = []
    for item in texts:
        names = list(model.inputs)
        rows = {
            name: model.inputs[name].type.encode(text)  # type: ignore[attr-defined]
            for name, text in zip(names, item, strict=True)
        }
        plan = model.plan(model.space.largest, {name: (len(row),) for name, row in rows.items()})
        batch = {name: Ragged.pack([row]) for name, row in rows.items()}
        found.append(answers_of(plan, batch)[model.config.task])
    return torch.cat(found)


@torch.no_grad()
def expected(public: Any, folder: Path, *texts: tuple[str, ...]) -> Tensor:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    found = []
    for item in texts:
        given = tokenizer(*item, return_tensors="pt")
        if public.config.model_type not in ("bert", "modernbert", "roberta", "xlm-roberta"):
            given.pop("token_type_ids", None)
        found.append(public(**given).logits)
    return torch.cat(found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_equals_the_public_one(tmp_path: Path, kind: str) -> None:
    public = write_classifier(tmp_path, kind)
    model = read(tmp_path, "tiny")
    assert model.tasks["label"].labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    texts = [(text,) for text in TEXTS]
    torch.testing.assert_close(
        answers(model, *texts), expected(public, tmp_path, *texts), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_cross_encoder_reads_both_texts_in_one_row(tmp_path: Path, kind: str) -> None:
    public = write_classifier(tmp_path, kind, 1, type_vocab_size=2)
    path = tmp_path / "tokenizer.json"
    values = json.loads(path.read_text())
    if kind == "roberta":  # two separators between the texts, and no types
        pair = values["post_processor"]["pair"]
        for part in pair:
            for token in part.values():
                token["type_id"] = 0
        pair.insert(3, {"SpecialToken": {"id": "[SEP]", "type_id": 0}})
    else:
        for part in values["post_processor"]["pair"][3:]:
            for token in part.values():
                token["type_id"] = 1
        names = ["input_ids", "token_type_ids", "attention_mask"]
        change_json(tmp_path / "tokenizer_config.json", model_input_names=names)
    path.write_text(json.dumps(values))
    model = read(tmp_path, "tiny", pair=True)
    assert list(model.inputs) == ["query", "document"]
    assert (model.config.between is None) == (kind == "bert")
    found = answers(model, *PAIRS)
    assert found.shape == (3,)
    torch.testing.assert_close(found, expected(public, tmp_path, *PAIRS)[:, 0], atol=1e-4, rtol=0)


def test_what_was_read_is_served_from_a_checkpoint_as_it_was(tmp_path: Path) -> None:
    write_classifier(tmp_path / "public", "bert", 1, type_vocab_size=2)
    for pair, items in ((False, [(text,) for text in TEXTS]), (True, list(PAIRS))):
        model = read(tmp_path / "public", "tiny", pair=pair)
        write(model, tmp_path / f"ours-{pair}", torch.float32)
        loaded = checkpoint.load(tmp_path / f"ours-{pair}").model
        assert torch.equal(answers(loaded, *items), answers(model, *items))


def test_a_head_after_the_mean_of_all_tokens_is_read(tmp_path: Path) -> None:
    public = write_classifier(
        tmp_path, "modernbert", classifier_pooling="mean", classifier_bias=True, norm_bias=True
    )
    texts = [(text,) for text in TEXTS]
    found = answers(read(tmp_path, "tiny"), *texts)
    torch.testing.assert_close(found, expected(public, tmp_path, *texts), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"problem_type": "multi_label_classification"}, "problem_type='multi_label_class"),
        ({"model_type": "starcoder2"}, "model_type='starcoder2'; allowed: one of"),
        ({"id2label": {"a": "b"}}, "id2label=.*a name for each number"),
        ({"surprise": 1}, "surprise=1; allowed: no such field"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_cannot_be_expressed_is_refused_by_name(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    write_classifier(tmp_path, "bert")
    change_json(tmp_path / "config.json", **fields)
    with pytest.raises(FormatError, match=message):
        read(tmp_path, "tiny")
