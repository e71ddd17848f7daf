"""Bare public folders against transformers itself, at every exit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from models import checkpoint
from models.formats import FormatError, huggingface, read, write
from models.formats.folder import INDEX, WEIGHTS
from models.inputs.text import TOKENIZER
from tests.models.formats.public import (
    MODEL_TYPES,
    PRE_NORM,
    change_json,
    hidden_states,
    pool,
    transformers,
    write_folder,
)
from tests.tiny_text import embed, token_rows

ROWS = token_rows((5, 1, 30, 9, 9, 3))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_exit_equals_the_public_hidden_state(
    tmp_path: Path, model_type: str, pooling: Any
) -> None:
    public = write_folder(tmp_path, model_type)
    choices: huggingface.Choices = {"pooling": pooling, "dims": (5, 16)}
    if model_type in PRE_NORM:
        choices["exit_norm"] = "last"
    model = read(tmp_path, "tiny", **choices)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.config.depths == (1, 2, 3, 4)
    states = hidden_states(public, ROWS)
    for depth in model.config.depths:
        for dim in (5, 16):
            close(embed(model, ROWS, depth, dim), pool(states[depth], pooling, dim))


@pytest.mark.parametrize("model_type", PRE_NORM)
def test_padding_on_the_left_gives_the_same(tmp_path: Path, model_type: str) -> None:
    public = write_folder(tmp_path, model_type)
    model = read(tmp_path, "tiny", exit_norm="last")
    states = hidden_states(public, ROWS, side="left")
    for depth in model.config.depths:
        close(embed(model, ROWS, depth, 16), pool(states[depth], "mean"))


@pytest.mark.parametrize("model_type", PRE_NORM)
def test_a_pre_norm_exit_equals_the_public_model_with_its_layers_cut_off(
    tmp_path: Path, model_type: str
) -> None:
    public = write_folder(tmp_path, model_type)
    model = read(tmp_path, "tiny")
    layers = public.layers
    for depth in model.config.depths:
        public.layers = nn.ModuleList(list(layers)[:depth])
        close(embed(model, ROWS, depth, 16), pool(hidden_states(public, ROWS)[-1], "mean"))


@pytest.mark.parametrize("model_type", PRE_NORM)
def test_exits_without_norm_need_no_final_norm(tmp_path: Path, model_type: str) -> None:
    public = write_folder(tmp_path, model_type)
    model = read(tmp_path, "tiny", exit_norm="none")
    close(embed(model, ROWS, 2, 16), pool(hidden_states(public, ROWS)[2], "mean"))


FIELDS: list[tuple[str, dict[str, Any]]] = [
    ("bert", {"hidden_act": "gelu_new", "type_vocab_size": 3}),
    ("roberta", {"pad_token_id": 3, "type_vocab_size": 1}),
    ("distilbert", {"activation": "relu", "sinusoidal_pos_embds": True}),
    ("starcoder2", {"num_key_value_heads": 4, "use_bias": False}),
    ("starcoder2", {"num_key_value_heads": 1, "sliding_window": 40}),
    (
        "modernbert",
        {
            "local_attention": 3,
            "global_attn_every_n_layers": 2,
            "norm_bias": True,
            "attention_bias": True,
            "mlp_bias": True,
            "hidden_activation": "silu",
        },
    ),
    ("modernbert", {"layer_types": ["full_attention"] * 4}),
]


@pytest.mark.parametrize(("model_type", "fields"), FIELDS, ids=lambda value: str(value)[:32])
def test_fields_that_change_the_computation_are_followed(
    tmp_path: Path, model_type: str, fields: dict[str, Any]
) -> None:
    public = write_folder(tmp_path, model_type, **fields)
    model = read(tmp_path, "tiny")
    close(embed(model, ROWS, 4, 16), pool(hidden_states(public, ROWS)[-1], "mean"))


def test_starcoder2_can_be_read_without_its_causal_mask(tmp_path: Path) -> None:
    public = write_folder(tmp_path, "starcoder2")
    model = read(tmp_path, "tiny", causal=False, exit_norm="last")
    assert read(tmp_path, "tiny").config.encoder.causal
    for layer in public.layers:
        layer.self_attn.is_causal = False
    # One row, of which everything may be seen: a mask of zeros takes the place of the causal one.
    row = ROWS[3]
    mask = torch.zeros(1, 1, len(row), len(row))
    with torch.no_grad():
        states = public(row[None], attention_mask=mask, output_hidden_states=True).hidden_states
    for depth in model.config.depths:
        close(embed(model, [row], depth, 16), pool([states[depth][0]], "mean"))


def test_the_older_spelling_of_rotary_fields_is_read(tmp_path: Path) -> None:
    write_folder(tmp_path, "starcoder2", rope_parameters={"rope_type": "default", "rope_theta": 99})
    new = read(tmp_path, "tiny").config
    change_json(tmp_path / "config.json", rope_parameters=None, rope_theta=99.0)
    assert read(tmp_path, "tiny").config == new
    assert new.encoder.rotary_theta == 99

    parts = {
        "full_attention": {"rope_type": "default", "rope_theta": 77.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 55.0},
    }
    folder = tmp_path / "modern"
    public = write_folder(folder, "modernbert", rope_parameters=parts)
    new = read(folder, "tiny").config
    close(embed(read(folder, "tiny"), ROWS, 4, 16), pool(hidden_states(public, ROWS)[-1], "mean"))
    change_json(
        folder / "config.json",
        rope_parameters=None,
        layer_types=None,
        global_rope_theta=77.0,
        local_rope_theta=55.0,
        global_attn_every_n_layers=3,
    )
    assert read(folder, "tiny").config == new
    assert (new.encoder.rotary_theta, new.encoder.local_theta) == (77, 55)


HEADS = {
    "bert": "BertForMaskedLM",
    "roberta": "RobertaForSequenceClassification",
    "xlm-roberta": "XLMRobertaForMaskedLM",
    "distilbert": "DistilBertForMaskedLM",
    "mpnet": "MPNetForMaskedLM",
    "starcoder2": "Starcoder2ForCausalLM",
    "modernbert": "ModernBertForMaskedLM",
}


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_prefix_and_the_tensors_of_a_task_head_are_passed_over(
    tmp_path: Path, model_type: str
) -> None:
    public = write_folder(tmp_path, model_type)
    plain = read(tmp_path, "tiny")
    headed = getattr(transformers, HEADS[model_type])(public.config)
    getattr(headed, headed.base_model_prefix).load_state_dict(public.state_dict(), strict=False)
    headed.save_pretrained(tmp_path)
    again = read(tmp_path, "tiny").state_dict()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, again[name]), name


def test_the_names_of_the_first_checkpoints_are_read(tmp_path: Path) -> None:
    write_folder(tmp_path, "bert")
    plain = read(tmp_path, "tiny").state_dict()
    state = {}
    for name, tensor in load_file(tmp_path / WEIGHTS).items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        state["bert." + name.replace("LayerNorm.bias", "LayerNorm.beta")] = tensor
    state["bert.embeddings.position_ids"] = torch.arange(40)[None]
    save_file(state, tmp_path / WEIGHTS)
    assert all(torch.equal(plain[k], v) for k, v in read(tmp_path, "tiny").state_dict().items())


def test_shards_are_read_and_half_precision_becomes_single(tmp_path: Path) -> None:
    public = write_folder(tmp_path, "bert")
    public.half().save_pretrained(tmp_path, max_shard_size="8KB")
    (tmp_path / WEIGHTS).unlink()
    assert (tmp_path / INDEX).is_file()
    model = read(tmp_path, "tiny")
    assert all(tensor.dtype == torch.float32 for tensor in model.state_dict().values())
    close(embed(model, ROWS, 4, 16), pool(hidden_states(public.float(), ROWS)[-1], "mean"))
    index = json.loads((tmp_path / INDEX).read_text())
    shard = sorted(index["weight_map"].values())[0]
    (tmp_path / shard).rename(tmp_path / "elsewhere")
    with pytest.raises(FormatError, match=f"{shard} does not exist, but the index names it"):
        read(tmp_path, "tiny")


def test_a_short_window_is_no_obstacle_to_short_inputs(tmp_path: Path) -> None:
    public = write_folder(tmp_path, "starcoder2", sliding_window=30)
    model = read(tmp_path, "tiny", max_length=30)
    close(embed(model, ROWS, 4, 16), pool(hidden_states(public, ROWS)[-1], "mean"))


def test_trained_dimensions_are_offered_and_others_are_not(tmp_path: Path) -> None:
    write_folder(tmp_path, "bert")
    assert read(tmp_path, "tiny").config.dims == (16,)
    assert read(tmp_path, "tiny", dims=(2, 16)).config.dims == (2, 16)
    change_json(tmp_path / "config.json", matryoshka_dimensions=[8, 4])
    assert read(tmp_path, "tiny").config.dims == (4, 8, 16)


def test_choices_are_followed_and_unknown_ones_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, "bert")
    model = read(
        tmp_path,
        "tiny",
        depths=(2, 4),
        dims=(8, 16),
        pairs=((2, 8), (4, 16)),
        heads=(0.5, 1.0),
        ffn=(0.5, 1.0),
        tasks={"search": "ndcg@10"},
        max_length=12,
        prompts={"query": "w1 {text}"},
        default_prompt="query",
    )
    assert len(list(model.space)) == 8
    assert list(model.tasks) == ["search"]
    assert len(model.text.encode("w0")) == 4
    assert model.config.text.max_length == 12
    with pytest.raises(TypeError, match="unknown choice 'depth'"):
        read(tmp_path, "tiny", depth=2)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"depths=\[2\] must be 0 or more, ascend and end at 4"):
        read(tmp_path, "tiny", depths=(2,))


@pytest.mark.parametrize(
    ("limit", "expected"), [(12, 12), (10**30, 38), (100, 38)], ids=["own", "none", "beyond"]
)
def test_the_longest_input_is_the_tokenizers_or_the_tables(
    tmp_path: Path, limit: int, expected: int
) -> None:
    write_folder(tmp_path, "roberta")
    change_json(tmp_path / "tokenizer_config.json", model_max_length=limit)
    assert read(tmp_path, "tiny").config.text.max_length == expected


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_model_written_as_our_own_checkpoint_is_the_same(tmp_path: Path, model_type: str) -> None:
    write_folder(tmp_path / "public", model_type)
    model = read(tmp_path / "public", "tiny")
    manifest = write(model, tmp_path / "ours", torch.float32)
    assert set(manifest.files) == {WEIGHTS, TOKENIZER}
    loaded = checkpoint.load(tmp_path / "ours").model
    rows = [loaded.text.encode("w1 w2 w3"), loaded.text.encode("w4")]
    assert torch.equal(embed(loaded, rows, 3, 16), embed(model, rows, 3, 16))
    assert torch.equal(rows[0], model.text.encode("w1 w2 w3"))
    close(F.normalize(embed(model, rows, 3, 16)), embed(model, rows, 3, 16))
