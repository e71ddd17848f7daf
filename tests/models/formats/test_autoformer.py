"""AutoFormer supernets in the published layout against a plain program of the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models import checkpoint
from models.families.autoformer import AutoFormer
from models.formats import FormatError
from models.formats.autoformer import read
from models.inputs.image import ImageInput
from tests.walking import answers_of

IMAGE = ImageInput(16, 16, (0.5,) * 3, (0.25,) * 3)
WIDE, HEADS, SIZE, LAYERS, PATCH, FARTHEST, CLASSES = 24, 4, 6, 3, 4, 2, 5
TOKENS = 1 + (16 // PATCH) ** 2
CHOICES: dict[str, Any] = {
    "embeds": (12, 18, 20),  # the file is wider than the largest choice, as the published ones
    "depths": (2, 3),
    "heads": (2, 3),
    "ratios": (1.5, 2.0),
}


def tensors() -> dict[str, Tensor]:
    """Return random tensors under the published names."""
    inner, ffn, places = HEADS * SIZE, 2 * WIDE, 2 * FARTHEST + 2
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDE),
        "pos_embed": (1, TOKENS, WIDE),
        "patch_embed_super.proj.weight": (WIDE, 3, PATCH, PATCH),
        "patch_embed_super.proj.bias": (WIDE,),
        "norm.weight": (WIDE,),
        "norm.bias": (WIDE,),
        "head.weight": (CLASSES, WIDE),
        "head.bias": (CLASSES,),
    }
    for i in range(LAYERS):
        own = {
            "attn.qkv.weight": (3 * inner, WIDE),
            "attn.qkv.bias": (3 * inner,),
            "attn.proj.weight": (WIDE, inner),
            "attn.proj.bias": (WIDE,),
            "fc1.weight": (ffn, WIDE),
            "fc1.bias": (ffn,),
            "fc2.weight": (WIDE, ffn),
            "fc2.bias": (WIDE,),
        }
        for norm in ("attn_layer_norm", "ffn_layer_norm"):
            own |= {f"{norm}.weight": (WIDE,), f"{norm}.bias": (WIDE,)}
        for table in ("rel_pos_embed_k", "rel_pos_embed_v"):
            own |= {f"attn.{table}.embeddings_table_{axis}": (places, SIZE) for axis in "vh"}
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in own.items()}
    generator = torch.Generator().manual_seed(0)
    return {name: 0.4 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def write(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save({"model": state, "epoch": 500}, path)
    return path


def plain(
    state: dict[str, Tensor], images: Tensor, embed: int, depth: int, heads: int, ratio: float
) -> Tensor:
    """Answer as the paper says, image by image and pair by pair."""
    out, side = [], 16 // PATCH
    for image in images:
        x = F.conv2d(
            image[None],
            state["patch_embed_super.proj.weight"][:embed],
            state["patch_embed_super.proj.bias"][:embed],
            stride=PATCH,
        )
        x = torch.cat((state["cls_token"][0, :, :embed], x[0].flatten(1).T))
        x = x + state["pos_embed"][0, :, :embed]
        for i in range(depth):
            own = {
                name.removeprefix(f"blocks.{i}."): tensor
                for name, tensor in state.items()
                if name.startswith(f"blocks.{i}.")
            }
            x = x + attention(own, norm(own, "attn_layer_norm", x), heads, side)
            units = int(embed * ratio)
            h = norm(own, "ffn_layer_norm", x)
            h = F.gelu(h @ own["fc1.weight"][:units, :embed].T + own["fc1.bias"][:units])
            x = x + h @ own["fc2.weight"][:embed, :units].T + own["fc2.bias"][:embed]
        x = norm(state, "norm", x)[1:].mean(0)
        out.append(state["head.weight"][:, :embed] @ x + state["head.bias"])
    return torch.stack(out)


def norm(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    n = x.shape[1]
    return F.layer_norm(x, (n,), state[f"{name}.weight"][:n], state[f"{name}.bias"][:n])


def attention(state: dict[str, Tensor], x: Tensor, heads: int, side: int) -> Tensor:
    tokens, embed = x.shape
    inner = heads * SIZE
    sampled = state["attn.qkv.weight"][:, :embed]
    weight = torch.cat([sampled[i : 3 * inner : 3] for i in range(3)])
    qkv = x @ weight.T + state["attn.qkv.bias"][: 3 * inner]
    q, k, v = (part.view(tokens, heads, SIZE) for part in torch.split(qkv, inner, dim=1))
    of = {
        which: torch.zeros(tokens, tokens, SIZE) for which in ("rel_pos_embed_k", "rel_pos_embed_v")
    }
    for which, table in of.items():
        rows, columns = (state[f"attn.{which}.embeddings_table_{axis}"] for axis in "vh")
        for a in range(tokens):
            for b in range(tokens):
                down = across = 0
                if a and b:
                    down = (b - 1) // side - (a - 1) // side
                    across = (b - 1) % side - (a - 1) % side
                    down, across = (
                        max(-FARTHEST, min(FARTHEST, n)) + FARTHEST + 1 for n in (down, across)
                    )
                table[a, b] = rows[down] + columns[across]
    scores = torch.einsum("ahd,bhd->hab", q, k) + torch.einsum(
        "ahd,abd->hab", q, of["rel_pos_embed_k"]
    )
    weights = (scores / SIZE**0.5).softmax(2)
    said = torch.einsum("hab,bhd->ahd", weights, v) + torch.einsum(
        "hab,abd->ahd", weights, of["rel_pos_embed_v"]
    )
    return (
        said.flatten(1) @ state["attn.proj.weight"][:embed, :inner].T
        + state["attn.proj.bias"][:embed]
    )


def images() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def made(path: Path, **fields: Any) -> AutoFormer:
    return read(path, "tiny", image=IMAGE, **{**CHOICES, **fields})


def test_every_subnet_equals_a_plain_program(tmp_path: Path) -> None:
    """Traps: interleaved rows with biases that are not, norms over the slice, a wider file."""
    state = tensors()
    model = made(write(tmp_path / "supernet.pth", dict(state)))
    assert len(list(model.space)) == 3 * 2 * 2 * 2
    for subnet in model.space:
        plan = model.plan(subnet, model.inputs.plan_shapes())
        found = answers_of(plan, {"image": images()})["label"]
        embed, depth, heads = (int(subnet[axis]) for axis in ("embed", "depth", "heads"))
        expected = plain(state, images(), embed, depth, heads, float(subnet["ratio"]))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    checkpoint.save(tmp_path / "out", model, "autoformer", torch.float32)
    again = checkpoint.load(tmp_path / "out").model
    plan = again.plan(again.space.smallest, again.inputs.plan_shapes())
    expected = plain(state, images(), 12, 2, 2, 1.5)
    found = answers_of(plan, {"image": images()})["label"]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"embeds": (12, 32)}, "embeds ask for 32; the file has 24"),
        ({"depths": (4,)}, "depths ask for 4; the file has 3"),
        ({"heads": (5,)}, "heads ask for 30; the file has 24"),
        ({"ratios": (4.0,)}, "ratios ask for 80; the file has 48"),
        ({"heads": (3, 2)}, r"heads=\[3, 2\] must be above 0 and ascend"),
        ({"labels": ("a",)}, "1 labels; the classifier has 5 classes"),
    ],
)
def test_choices_that_the_file_does_not_have_are_refused(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "supernet.pth", tensors())
    with pytest.raises(ValueError, match=message):
        made(path, **fields)


def test_what_is_missing_or_too_much_is_named(tmp_path: Path) -> None:
    state = tensors()
    del state["blocks.1.fc2.bias"]
    with pytest.raises(FormatError, match=r"tensor 'blocks.1.fc2.bias' is missing"):
        made(write(tmp_path / "a.pth", state))
    with pytest.raises(FormatError, match=r"tensor 'extra' is not part of the model"):
        made(write(tmp_path / "b.pth", tensors() | {"extra": torch.zeros(1)}))
