"""Folders of models as transformers and sentence-transformers write them, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

WORDS = "a small model answers what fits into half of the budget"
CLASSES = tuple(f"class{i}" for i in range(8))
_SIZES = {
    "hidden_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 384,
}
_LENGTH = 64
_IMAGE = 64  # pixels


def bert(folder: Path, lines: Sequence[str]) -> tuple[Path, bool]:
    """Write a BERT encoder; return its folder, and False: it takes no images."""
    from transformers import BertConfig, BertModel

    tokenizer = _tokenizer(lines, ("[CLS]", "[SEP]"))
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    count = tokenizer.get_vocab_size()
    config = BertConfig.from_dict(
        {"vocab_size": count, "max_position_embeddings": _LENGTH, **_SIZES}
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    _save(tokenizer, special, folder)
    return folder, False


def roberta(folder: Path, lines: Sequence[str]) -> tuple[Path, bool]:
    """Write a RoBERTa encoder of sentence-transformers with two Dense layers after its pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
    from transformers import RobertaConfig, RobertaModel

    tokenizer = _tokenizer(lines, ("<s>", "</s>"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
    own = {
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": _LENGTH + 2,
        "pad_token_id": 0,
        "type_vocab_size": 1,
    }
    config = RobertaConfig.from_dict({**own, **_SIZES})
    inner = folder.parent / f"{folder.name}-encoder"
    torch.manual_seed(0)
    RobertaModel(config).save_pretrained(inner)
    _save(tokenizer, special, inner)
    size = _SIZES["hidden_size"]
    modules = [
        Transformer(str(inner), max_seq_length=_LENGTH),
        Pooling(size),
        Dense(size, 2 * size, activation_function=torch.nn.GELU()),
        Dense(2 * size, size, activation_function=torch.nn.Tanh()),
    ]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    return folder, False


def vit(folder: Path, lines: Sequence[str]) -> tuple[Path, bool]:
    """Write a vision transformer with eight classes; return its folder, and True."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    del lines
    own = {"image_size": _IMAGE, "patch_size": 8, "id2label": dict(enumerate(CLASSES))}
    config = ViTConfig.from_dict({**own, **_SIZES})
    torch.manual_seed(0)
    ViTForImageClassification(config).save_pretrained(folder)
    size = {"height": _IMAGE, "width": _IMAGE}
    ViTImageProcessor(size=size).save_pretrained(folder)
    return folder, True


def _save(tokenizer: Tokenizer, special: Mapping[str, str], folder: Path) -> None:
    import transformers

    kind: Any = transformers.PreTrainedTokenizerFast
    given = {"unk_token": "[UNK]", "pad_token": "[PAD]", "model_max_length": _LENGTH, **special}
    kind(tokenizer_object=tokenizer, **given).save_pretrained(folder)


def _tokenizer(lines: Sequence[str], ends: tuple[str, str]) -> Tokenizer:
    """Return a tokenizer of the words of some lines, and of all letters."""
    found = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    found.normalizer = normalizers.Lowercase()
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", *ends]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=2000, special_tokens=special, initial_alphabet=letters, show_progress=False
    )
    found.train_from_iterator(lines, trainer)
    first, last = ends
    found.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B {last}",
        special_tokens=[(one, found.token_to_id(one)) for one in ends],
    )
    return found


MAKERS: Mapping[str, Callable[[Path, Sequence[str]], tuple[Path, bool]]] = {
    "bert": bert,
    "roberta-two-dense": roberta,
    "vit": vit,
}
