"""Reads a ModularStarEncoder: StarCoder2, bidirectional, with a projection head at each exit.

Gurioli et al. 2025, ModularStarEncoder, arXiv 2503.03008, describe the model; the names of its
tensors are not documented. This reader expects those of the table below, where ``{}`` is the exit's
place, 0 for the shallowest, and otherwise the names of StarCoder2. A missing one is named in the
error. The rows of the embedding of the exit are in the same order; each is joined to the pooled
hidden state before the projection, if ``conditional_size`` is above 0.

Exits above the last layer take hidden states as they are, the last one after the final norm, which
is what the public ``hidden_states`` hold. The pooling is the caller's to say. The documented input
is ``{sep}{instruction}{sep}{text}{cls}``: see `prompt`. Which side is padded does not matter here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from torch import Tensor

from models.families.exits import Exits
from models.formats.folder import Fields, FormatError, Tensors
from models.formats.huggingface import CONFIG, Choices, ExitHead, assemble
from models.formats.model_types import MODEL_TYPES

DEPTHS = (4, 9, 18, 27, 36)
CONDITION = "conditional_embeddings.weight"
PROJECTION = {"weight": "projection_heads.{}.weight", "bias": "projection_heads.{}.bias"}
IS_MODULAR_STAR = "conditional_size"  # the field that StarCoder2 itself does not have


def prompt(instruction: str, sep: str, cls: str) -> str:
    """Return the documented template.

    Args:
        instruction: Such as what the text is to be matched with.
        sep: The tokenizer's separator token.
        cls: Its classification token, which comes last.
    """
    return f"{sep}{instruction}{sep}{{text}}{cls}"


def read(folder: Path, name: str, **choices: Unpack[Choices]) -> Exits:
    """Read a folder as a multi-exit model, in evaluation mode, with its tokenizer.

    Args:
        folder: As `huggingface.read` takes it.
        name: What clients call the model.
        **choices: See `Choices`. ``pooling`` is needed; ``depths`` are those of the published
            model by default.

    Raises:
        FormatError: If a file is missing, or says something that cannot be expressed exactly.
        ValueError: If the choices do not fit the model.
    """
    fields = Fields.read(folder / CONFIG)
    if "pooling" not in choices:
        raise FormatError(f"{folder}: the files do not name the pooling; the caller must")
    tensors = Tensors.read(folder)
    said: Choices = {"depths": DEPTHS, "causal": False, "exit_norm": "last"}
    both: Choices = {**said, **choices}
    head = _head(fields, tensors, both["depths"])
    return assemble(folder, name, fields, MODEL_TYPES["starcoder2"], tensors, both, head)


def _head(fields: Fields, tensors: Tensors, depths: Sequence[int]) -> ExitHead:
    condition = fields.integer(IS_MODULAR_STAR, 0)
    inputs = fields.integer("hidden_size") + condition
    width = tensors.rows(PROJECTION["bias"].format(0))
    state: dict[str, Tensor] = {}
    if condition:
        rows = tensors.take(CONDITION, len(depths), condition)
        state |= {f"exits.{depth}.condition": rows[i] for i, depth in enumerate(depths)}
    for i, depth in enumerate(depths):
        for part, shape in (("weight", (width, inputs)), ("bias", (width,))):
            tensor = tensors.take(PROJECTION[part].format(i), *shape)
            state[f"exits.{depth}.projection.{part}"] = tensor
    return ExitHead(width, lambda _: state, condition=condition)
