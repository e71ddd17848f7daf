from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.formats import FormatError, modular_star, read, write
from models.formats.folder import WEIGHTS
from tests.models.formats.public import change_json, write_folder
from tests.tiny_text import embed, token_rows

DEPTHS = (2, 4)
WIDTH = 6


def write_modular(folder: Path, condition: int) -> tuple[Any, dict[str, Tensor]]:
    """Add heads, as the reader expects them, to a StarCoder2; return both parts."""
    public = write_folder(folder, "starcoder2")
    generator = torch.Generator().manual_seed(5)
    heads = {}
    for i in range(len(DEPTHS)):
        heads[f"projection_heads.{i}.weight"] = torch.randn(
            WIDTH, 16 + condition, generator=generator
        )
        heads[f"projection_heads.{i}.bias"] = torch.randn(WIDTH, generator=generator)
    if condition:
        heads["conditional_embeddings.weight"] = torch.randn(
            len(DEPTHS), condition, generator=generator
        )
    state = {f"model.{name}": tensor for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(state | heads, folder / WEIGHTS)
    change_json(folder / "config.json", conditional_size=condition, model_type="ModularStarEncoder")
    return public, heads


@pytest.mark.parametrize("condition", [0, 3])
def test_each_exit_has_its_projection_of_the_state_joined_to_its_condition(
    tmp_path: Path, condition: int
) -> None:
    public, heads = write_modular(tmp_path, condition)
    model = read(tmp_path, "tiny", depths=DEPTHS, pooling="last", dims=(2, WIDTH))
    (row,) = token_rows((9,))
    everything = torch.zeros(1, 1, 9, 9)
    for layer in public.layers:
        layer.self_attn.is_causal = False
    with torch.no_grad():
        states = public(row[None], attention_mask=everything, output_hidden_states=True)
    for i, depth in enumerate(DEPTHS):
        joined = states.hidden_states[depth][0, -1]
        if condition:
            joined = torch.cat((joined, heads["conditional_embeddings.weight"][i]))
        weight, bias = (heads[f"projection_heads.{i}.{part}"] for part in ("weight", "bias"))
        expected = weight @ joined + bias
        for dim in (2, WIDTH):
            found = embed(model, [row], depth, dim)[0]
            torch.testing.assert_close(
                found, F.normalize(expected[:dim], dim=0), atol=1e-5, rtol=1e-5
            )


def test_padding_does_not_matter_as_rows_are_packed(tmp_path: Path) -> None:
    write_modular(tmp_path, 3)
    model = read(tmp_path, "tiny", depths=DEPTHS, pooling="last")
    rows = token_rows()
    single = torch.cat([embed(model, [row], 4, WIDTH) for row in rows])
    torch.testing.assert_close(embed(model, rows, 4, WIDTH), single, atol=1e-5, rtol=0)


def test_the_documented_template_is_a_prompt(tmp_path: Path) -> None:
    write_modular(tmp_path, 3)
    template = modular_star.prompt("w1", sep="[SEP]", cls="[CLS]")
    assert template == "[SEP]w1[SEP]{text}[CLS]"
    model = read(tmp_path, "tiny", depths=DEPTHS, pooling="last", prompts={"code": template})
    # The tokenizer of these tests adds special tokens of its own around it.
    assert model.text.encode("w0", prompt="code").tolist() == [2, 3, 5, 3, 4, 2, 3]


@pytest.mark.parametrize(
    "name",
    [
        "conditional_embeddings.weight",
        "projection_heads.0.bias",
        "projection_heads.1.weight",
        "model.norm.weight",
    ],
)
def test_a_missing_tensor_is_named(tmp_path: Path, name: str) -> None:
    write_modular(tmp_path, 3)
    state = load_file(tmp_path / WEIGHTS)
    del state[name]
    save_file(state, tmp_path / WEIGHTS)
    with pytest.raises(FormatError, match=rf"tensor '{name}' is missing"):
        read(tmp_path, "tiny", depths=DEPTHS, pooling="last")


def test_the_pooling_has_to_be_named(tmp_path: Path) -> None:
    write_modular(tmp_path, 3)
    with pytest.raises(FormatError, match="do not name the pooling"):
        read(tmp_path, "tiny", depths=DEPTHS)


def test_the_published_exits_are_the_default(tmp_path: Path) -> None:
    write_modular(tmp_path, 3)
    with pytest.raises(FormatError, match=r"has shape \[2, 3\], the configuration needs \[5, 3\]"):
        modular_star.read(tmp_path, "tiny", pooling="last")


def test_a_written_checkpoint_keeps_heads_and_conditions(tmp_path: Path) -> None:
    write_modular(tmp_path / "public", 3)
    model = read(tmp_path / "public", "tiny", depths=DEPTHS, pooling="last")
    manifest = write(model, tmp_path / "ours")
    assert manifest.config["condition"] == 3
    assert manifest.config["projection"] == WIDTH
