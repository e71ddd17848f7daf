"""Reads a bare folder of huggingface/transformers: config.json, safetensors and tokenizer.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypedDict, Unpack

from torch import Tensor

from models.families.exits import Exits, ExitsConfig
from models.formats import known
from models.formats.architecture import Architecture
from models.formats.folder import Fields, FormatError, Tensors
from models.formats.known import check_known
from models.formats.model_types import MODEL_TYPES
from models.formats.tokenizer import read_tokenizer
from models.inputs.text import TextInput
from models.inputs.text_config import TextConfig
from models.nn.head import HeadActivation, HeadLayer
from models.nn.pooling import Pooling, poolings_of
from models.tasks import Metric

CONFIG = "config.json"
# What else the public libraries would read, and what would change the model.
_REFUSED = ("adapter_config.json", "processor_config.json", "preprocessor_config.json")
_REQUIRED: dict[str, tuple[object, ...]] = {
    "auto_map": ({},),
    "pruned_heads": ({}, []),
    "quantization_config": (),
    "is_encoder_decoder": (False,),
    "use_bidirectional_attention": (False,),
}


class Choices(TypedDict, total=False):
    """What a caller may say beyond the files; all readers take the same.

    Attributes:
        depths: Exit layers; default: every layer.
        dims: Leading dimensions on offer; default: those that the files name, else the whole
            vector only, as a model that was not trained to be cut is worth little when it is.
        heads: Shares of the heads.
        ffn: Shares of the feed-forward units.
        pairs: The only (depth, dim) that go together.
        pooling: Of tokens into a vector.
        exit_norm: See `ExitsConfig`; default: ``final`` for a pre-norm encoder, which is what the
            public model gives when its layers are cut off.
        tasks: Metric by task.
        max_length: Most tokens of an input; default: what the files say.
        prompts: Templates by name, with ``{text}``.
        default_prompt: Name of the one used where a request names none.
        causal: Whether tokens see only what is before them; default: as in the public model.
    """

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    heads: tuple[float, ...]
    ffn: tuple[float, ...]
    pairs: tuple[tuple[int, int], ...]
    pooling: Pooling | tuple[Pooling, ...]
    exit_norm: Literal["none", "final", "last"]
    tasks: Mapping[str, Metric]
    max_length: int
    prompts: Mapping[str, str]
    default_prompt: str | None
    causal: bool


@dataclass(frozen=True)
class ExitHead:
    """What follows the pooling.

    Attributes:
        width: Of the last linear map; None if the vector comes from ``layers`` alone.
        exits: Function of the exit layers to the tensors of all exits, under our names.
        activation: After the linear map.
        condition: Width of the embedding of the exit.
        layers: Between the pooling and that linear map.
    """

    width: int | None
    exits: Callable[[Sequence[int]], Mapping[str, Tensor]]
    activation: HeadActivation = "identity"
    condition: int = 0
    layers: tuple[HeadLayer, ...] = ()

    def size(self, pooled: int) -> int:
        """Return the dimensions of the vector; ``pooled`` is that of what is pooled."""
        return self.width or (self.layers[-1].width if self.layers else pooled)


def read(folder: Path, name: str, **choices: Unpack[Choices]) -> Exits:
    """Read a folder as a multi-exit model, in evaluation mode, with its tokenizer.

    Args:
        folder: With ``config.json``, ``model.safetensors`` or its shards, and ``tokenizer.json``.
        name: What clients call the model.
        **choices: See `Choices`.

    Raises:
        FormatError: If a file is missing, or says something that cannot be expressed exactly.
        ValueError: If the choices do not fit the model.
    """
    fields = Fields.read(folder / CONFIG)
    architecture = fields.pick("model_type", MODEL_TYPES)
    tensors = Tensors.read(folder)
    return assemble(folder, name, fields, architecture, tensors, choices)


def assemble(
    folder: Path,
    name: str,
    fields: Fields,
    architecture: Architecture,
    tensors: Tensors,
    choices: Choices,
    head: ExitHead | None = None,
    lowers: bool = False,
) -> Exits:
    """Build the model from a folder's fields and tensors, and attach its tokenizer.

    Args:
        folder: Where the tokenizer is.
        name: What clients call the model.
        fields: Of ``config.json``.
        architecture: Which field and tensor is which.
        tensors: The encoder's; the head's must have been taken.
        choices: Of the caller.
        head: None if the pooled hidden state is the vector.
        lowers: Whether text is to be lowered whatever the tokenizer does.

    Raises:
        FormatError: If something is missing or cannot be expressed exactly.
        ValueError: If the choices do not fit the model.
    """
    check_known(fields, known.CONFIG)
    for field, allowed in _REQUIRED.items():
        fields.require(field, *allowed)
    for file in _REFUSED:
        if (folder / file).is_file():
            raise FormatError(f"{folder / file} is not followed; allowed: no such file")
    tokenizer, its_length = read_tokenizer(folder, fields, lowers)
    max_length = choices.get("max_length", its_length)
    encoder = architecture.config(fields, choices.get("causal"), max_length)
    if "max_length" not in choices:
        max_length = min(max_length or encoder.max_positions, encoder.max_positions)
    assert max_length is not None
    if encoder.positions == "rotary" and max_length < encoder.max_positions:
        # Nothing learned is lost, and the tables of angles stay small.
        encoder = replace(encoder, max_positions=max_length)
    pooling = choices.get("pooling", "mean")
    pooled = encoder.hidden * len(poolings_of(pooling))
    width = head.size(pooled) if head else pooled
    pre = encoder.norm == "pre"
    config = ExitsConfig(
        encoder=encoder,
        text=TextConfig(
            max_length=max_length,
            prompts=dict(choices.get("prompts", {})),
            default_prompt=choices.get("default_prompt"),
        ),
        tasks=dict(choices["tasks"]) if "tasks" in choices else {"similarity": "spearman"},
        depths=choices.get("depths", tuple(range(1, encoder.layers + 1))),
        dims=choices.get("dims", _trained_dims(fields, width)),
        heads=choices.get("heads", (1.0,)),
        ffn=choices.get("ffn", (1.0,)),
        pairs=choices.get("pairs"),
        pooling=pooling,
        head=head.layers if head else (),
        exit_norm=choices.get("exit_norm", "final" if pre else "none"),
        projection=head.width if head else None,
        projection_activation=head.activation if head else "identity",
        condition=head.condition if head else 0,
    )
    state = architecture.state(tensors, encoder, fields)
    if config.exit_norm == "none":
        state = {key: value for key, value in state.items() if not key.startswith("final_norm")}
    if head:
        state |= head.exits(config.depths)
    tensors.finish(architecture.ignored)
    model = Exits(name, config)
    model.load_state_dict(state)
    model.take(TextInput(config.text, tokenizer), folder)
    return model.eval().requires_grad_(False)


def _trained_dims(fields: Fields, width: int) -> tuple[int, ...]:
    """Return the dimensions that the model says it was trained for, else the whole."""
    named = fields.values.get("matryoshka_dimensions") or [width]
    if not isinstance(named, list) or any(type(n) is not int or not 0 < n <= width for n in named):
        raise fields.error("matryoshka_dimensions", f"whole numbers of 1 to {width}")
    return tuple(sorted({*named, width}))
