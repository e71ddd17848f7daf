"""Public folders that cannot be read exactly, or not safely."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.formats import FormatError, read
from models.formats.folder import INDEX, WEIGHTS
from models.inputs.text import TOKENIZER
from tests.models.formats.public import change_json, write_folder


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "weight_map is missing"),
        ({"weight_map": {"x": "../other.safetensors"}}, "names '../other.safetensors'"),
        ({"weight_map": {"x": "pytorch_model.bin"}}, "names 'pytorch_model.bin'; allowed"),
        ({"weight_map": {"x": "whole.safetensors"}}, "tensor 'x' is in none of the files"),
    ],
    ids=["empty", "outside", "pickle", "missing"],
)
def test_an_index_that_cannot_be_followed_is_refused(
    tmp_path: Path, index: dict[str, Any], message: str
) -> None:
    write_folder(tmp_path, "bert")
    (tmp_path / WEIGHTS).rename(tmp_path / "whole.safetensors")
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(FormatError, match=message):
        read(tmp_path, "tiny")


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("bert", {"model_type": "t5"}, "model_type='t5'; allowed: one of .*'bert'"),
    ("bert", {"hidden_act": "mish"}, "hidden_act='mish'; allowed: one of .*'gelu'"),
    ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
    ("bert", {"is_decoder": True}, "is_decoder=True; allowed: False"),
    ("bert", {"num_attention_heads": 3}, "num_attention_heads=3; allowed: a divisor of"),
    ("bert", {"hidden_size": None}, "hidden_size is missing"),
    ("bert", {"hidden_size": "16"}, "hidden_size='16'; allowed: a whole number"),
    ("bert", {"layer_norm_eps": "x"}, "layer_norm_eps='x'; allowed: a number"),
    ("bert", {"vocab_size": 61}, r"has shape \[60, 16\], the configuration needs \[61, 16\]"),
    ("bert", {"num_hidden_layers": 5}, r"tensor 'encoder.layer.4.attention.* is missing"),
    ("bert", {"num_hidden_layers": 3}, r"tensor 'encoder.layer.3.*' is not part of the encoder"),
    ("bert", {"matryoshka_dimensions": [8, 32]}, r"matryoshka_dimensions=\[8, 32\]; allowed"),
    ("mpnet", {"relative_attention_num_buckets": 16}, "relative_attention_num_buckets=16"),
    ("starcoder2", {"sliding_window": 16}, "sliding_window=16; allowed: none, or the longest"),
    ("starcoder2", {"use_bias": "yes"}, "use_bias='yes'; allowed: true or false"),
    ("starcoder2", {"rope_parameters": 5}, "rope_parameters=5; allowed: an object"),
    (
        "starcoder2",
        {"rope_parameters": {"rope_type": "yarn", "factor": 2}},
        "rope_parameters.rope_type='yarn'; allowed: 'default'",
    ),
    ("starcoder2", {"rope_scaling": {"type": "linear"}}, "rope_scaling.type='linear'; allowed"),
    ("starcoder2", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5; allowed: 1"),
    (
        "modernbert",
        {"layer_types": ["sliding_attention", *["full_attention"] * 3]},
        "layer_types=.*; allowed: full_attention for the first of every n",
    ),
]


@pytest.mark.parametrize(("model_type", "fields", "message"), REFUSED, ids=lambda v: str(v)[:40])
def test_what_cannot_be_expressed_is_refused_by_name(
    tmp_path: Path, model_type: str, fields: dict[str, Any], message: str
) -> None:
    write_folder(tmp_path, model_type)
    change_json(tmp_path / "config.json", **fields)
    with pytest.raises(FormatError, match=message):
        read(tmp_path, "tiny")


def test_an_encoder_that_is_never_causal_says_so(tmp_path: Path) -> None:
    write_folder(tmp_path, "bert")
    with pytest.raises(FormatError, match="causal=True; this architecture allows False only"):
        read(tmp_path, "tiny", causal=True)


@pytest.mark.parametrize("file", [WEIGHTS, "config.json", TOKENIZER])
def test_a_missing_file_is_named(tmp_path: Path, file: str) -> None:
    write_folder(tmp_path, "bert")
    (tmp_path / file).unlink()
    with pytest.raises(FormatError, match=f"{file} does not exist"):
        read(tmp_path, "tiny")


def test_pickles_and_bare_vocabularies_are_refused(tmp_path: Path) -> None:
    public = write_folder(tmp_path, "bert")
    (tmp_path / TOKENIZER).rename(tmp_path / "vocab.txt")
    with pytest.raises(FormatError, match=r"tokenizer\.json does not exist; vocab\.txt alone"):
        read(tmp_path, "tiny")
    (tmp_path / WEIGHTS).unlink()
    torch.save(public.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(FormatError, match=r"pytorch_model\.bin is a pickle, which is refused"):
        read(tmp_path, "tiny")
    (tmp_path / "pytorch_model.bin").rename(tmp_path / WEIGHTS)
    with pytest.raises(FormatError, match=r"model\.safetensors: not a safetensors file"):
        read(tmp_path, "tiny")


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_configuration_that_is_no_object_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(FormatError, match=r"config\.json(: not JSON| is not a JSON object)"):
        read(tmp_path, "tiny")


def test_tensors_of_another_encoder_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, "bert")
    state = load_file(tmp_path / WEIGHTS)
    save_file(state | {"encoder.extra": torch.zeros(1)}, tmp_path / WEIGHTS)
    with pytest.raises(FormatError, match=r"tensor 'encoder\.extra' is not part of the encoder"):
        read(tmp_path, "tiny")
    save_file({f"other.{name}": tensor for name, tensor in state.items()}, tmp_path / WEIGHTS)
    with pytest.raises(FormatError, match=r"'embeddings\.word_embeddings\.weight' is missing"):
        read(tmp_path, "tiny")
