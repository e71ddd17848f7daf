"""Encoders with a head: classes, a score or a vector of a text, of a pair of texts or of an image.

Axes: ``depth`` (layers run before the head), ``heads`` and ``ffn`` (share of each layer's heads and
feed-forward units, most important first). Where the configuration offers it, ``bits``: whether the
layers' products are of floats or of int8. A model that was read from a public folder has one value
on each until it is made elastic.

Sources: Devlin et al. 2019, BERT, arXiv 1810.04805, for heads and pairs; Dosovitskiy et al. 2021,
ViT, arXiv 2010.11929, for patches.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ConfigDict
from torch import Tensor, nn

from models.bits import axis_of, bits_of, check_bits, step_of, variant_of
from models.core import Cost, Plan, Shapes, Step
from models.families import Family
from models.inputs import Inputs, Slot
from models.inputs.text import TOKENIZER, TextInput
from models.inputs.text_config import TextConfig
from models.nn.architecture import TransformerConfig
from models.nn.exit import Exit, pooled, pooled_width, unit_vectors
from models.nn.head import HeadActivation, HeadLayer
from models.nn.joined import JoinedEmbedding
from models.nn.patches import PatchConfig, PatchEmbedding
from models.nn.pooling import Pooling
from models.nn.quantized import bytes_of
from models.nn.ragged import Ragged
from models.nn.transformer import Embedding, Layer, make_norm
from models.space import Axis, Space, Subnet, Value, check_ascending
from models.tasks import Kind, Metric, Task, wanted_tasks


@dataclass(frozen=True)
class HeadedConfig:
    """Everything that fixes the architecture; kept in the checkpoint's manifest.

    Attributes:
        encoder: The transformer.
        task: Name of what is answered.
        kind: Of the answer.
        labels: Of classes, in logit order.
        metric: What the table scores.
        text: How a text becomes tokens; of a pair, the first.
        second: Likewise of the second text of a pair.
        between: Token between the texts of a pair, in place of the second one's first; None: it is
            dropped.
        image: How an image becomes tokens; there is either this or a text.
        depths: Layers after which the head may come, ascending; the last is their number.
        heads: Shares of the heads, ascending, the last 1.
        ffn: Shares of the feed-forward units, ascending, the last 1.
        bits: Of the layers' linear weights: 32, or 8 and 32.
        tied: Whether ``heads`` and ``ffn`` have values in common order only: each with its like.
        kept: Per depth, the layers that are run, ascending; None: the first.
        pooling: Of the tokens of a row into one vector; several are joined.
        exit_norm: ``none``: the layer's output as it is. ``final``: the final norm at every exit.
        head: Layers after the pooling.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    encoder: TransformerConfig
    task: str
    kind: Kind
    depths: tuple[int, ...]
    labels: tuple[str, ...] = ()
    metric: Metric = "accuracy"
    text: TextConfig | None = None
    second: TextConfig | None = None
    between: int | None = None
    image: PatchConfig | None = None
    heads: tuple[float, ...] = (1.0,)
    ffn: tuple[float, ...] = (1.0,)
    bits: tuple[int, ...] = (32,)
    tied: bool = False
    kept: tuple[tuple[int, ...], ...] | None = None
    pooling: Pooling | tuple[Pooling, ...] = "cls"
    exit_norm: Literal["none", "final"] = "none"
    head: tuple[HeadLayer, ...] = ()
    projection: None = None
    projection_activation: HeadActivation = "identity"
    condition: Literal[0] = 0

    def __post_init__(self) -> None:
        """Refuse an architecture that cannot be built.

        Raises:
            ValueError: Naming the field, its value and what is allowed.
        """
        if (self.text is None) == (self.image is None):
            raise ValueError("one of text and image is needed")
        if self.second is not None and self.text is None:
            raise ValueError("second needs a text")
        for name, values, last in (
            ("depths", self.depths, self.encoder.layers),
            ("heads", self.heads, 1),
            ("ffn", self.ffn, 1),
        ):
            check_ascending(name, values, last)
        check_bits(self.bits)
        if self.tied and len(self.heads) != len(self.ffn):
            raise ValueError(f"tied: heads={list(self.heads)} and ffn={list(self.ffn)} do not pair")
        every = list(range(self.encoder.layers))
        for depth, own in zip(self.depths, self.kept or (), strict=self.kept is not None):
            if len(own) != depth or list(own) != sorted(set(own)) or not set(own) <= set(every):
                raise ValueError(f"kept={list(own)} must be {depth} of the layers {every}")
        if (self.exit_norm == "final") != (self.encoder.norm == "pre"):
            raise ValueError(f"exit_norm={self.exit_norm!r} does not go with the encoder's norm")
        if self.kind == "map":
            raise ValueError("kind='map' must be classes, score or embedding")
        width = {"classes": len(self.labels), "score": 1}.get(self.kind, pooled_width(self))
        if pooled_width(self) != width:
            raise ValueError(f"head gives {pooled_width(self)} values, the task needs {width}")
        if self.longest > self.encoder.max_positions:
            raise ValueError(
                f"{self.longest} tokens exceed encoder.max_positions={self.encoder.max_positions}"
            )

    @property
    def longest(self) -> int:
        """Most tokens that the layers see."""
        if self.image is not None:
            return self.image.tokens
        assert self.text is not None
        if self.second is None:
            return self.text.max_length
        return self.text.max_length + self.second.max_length - (self.between is None)


class Headed(nn.Module):
    """The family as an `Elastic` model; see `models.elastic.Elastic` for the contract."""

    def __init__(self, name: str, config: HeadedConfig) -> None:
        super().__init__()
        self.name = name
        self.config = config
        encoder = config.encoder
        self.assets = () if config.text is None else (TOKENIZER,)
        self.embedding: Embedding | PatchEmbedding
        if config.image is not None:
            self.embedding = PatchEmbedding(config.image, encoder.hidden)
        elif config.second is not None:
            self.embedding = JoinedEmbedding(encoder, config.between)
        else:
            self.embedding = Embedding(encoder)
        self.layers = nn.ModuleList(Layer(encoder, i) for i in range(encoder.layers))
        self.final_norm = make_norm(encoder) if config.exit_norm == "final" else None
        self.exits = nn.ModuleDict({str(depth): Exit(config) for depth in config.depths})
        self.bits = config.bits[-1]
        self._inputs: Inputs | None = None
        self._text: TextInput | None = None
        if config.image is not None:
            self._inputs = Inputs.of("image", config.image.input)

    def variant(self, choices: Mapping[str, Value]) -> Headed:
        """Return the model with its layers' weights in other bits; all others are shared."""
        return variant_of(self, choices)

    def attach(self, folder: Path) -> None:
        """Read the tokenizer from the checkpoint's folder.

        Raises:
            ValueError: If there is none, or it makes ids that have no embedding.
        """
        config = self.config
        assert config.text is not None
        text = TextInput.load(config.text, folder)
        self.take(text, None if config.second is None else TextInput.load(config.second, folder))

    def take(self, text: TextInput, second: TextInput | None = None) -> None:
        """Take tokenizers; ValueError if they make ids that have no embedding."""
        rows = self.config.encoder.vocab_size
        if text.vocab_size > rows:
            raise ValueError(f"{TOKENIZER}: {text.vocab_size} ids, vocab_size={rows}")
        self._text = text
        if second is None:
            self._inputs = Inputs.of("text", text)
        else:
            self._inputs = Inputs({"query": Slot(text), "document": Slot(second)})

    @property
    def text(self) -> TextInput:
        """What a text, or the first of two, must become; RuntimeError before `attach`."""
        if self._text is None:
            raise RuntimeError(f"{self.name} has no tokenizer yet: attach a folder first")
        return self._text

    @property
    def inputs(self) -> Inputs:
        """A text, two texts or an image; RuntimeError before `attach`."""
        if self._inputs is None:
            raise RuntimeError(f"{self.name} has no tokenizer yet: attach a folder first")
        return self._inputs

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """One task."""
        config = self.config
        task = Task(config.task, config.kind, config.labels, config.metric)
        return {config.task: task}

    @cached_property
    def space(self) -> Space:
        """Depth, heads and ffn. Bits where they are offered."""
        config = self.config
        axes = (
            *axis_of(config.bits),
            Axis("depth", config.depths),
            Axis("heads", config.heads),
            Axis("ffn", config.ffn),
        )
        if not config.tied:
            return Space(axes)
        allowed = frozenset(zip(config.heads, config.ffn, strict=True))
        return Space(axes, lambda subnet: (subnet["heads"], subnet["ffn"]) in allowed)

    def tokens(self, shapes: Shapes) -> int:
        """Return the tokens that the layers see; ValueError if the shapes are not the model's."""
        config = self.config
        if config.image is not None:
            expected = {"image": config.image.input.shape}
            if dict(shapes) != expected:
                raise ValueError(f"shapes={dict(shapes)} must be {expected}")
            return config.image.tokens
        assert config.text is not None
        limits = {"text": config.text.max_length}
        if config.second is not None:
            limits = {"query": config.text.max_length, "document": config.second.max_length}
        if shapes.keys() != limits.keys() or not all(
            len(shape) == 1 and 1 <= shape[0] <= limits[name] for name, shape in shapes.items()
        ):
            raise ValueError(f"shapes={dict(shapes)} must have a length each, at most {limits}")
        total = sum(shape[0] for shape in shapes.values())
        return total - (config.second is not None and config.between is None)

    def plan(self, subnet: Subnet, shapes: Shapes, tasks: Collection[str] | None = None) -> Plan:
        """Return the embedding, one step per layer and the head; see `models.elastic.Elastic`."""
        subnet = self.space.check(subnet)
        length, encoder = self.tokens(shapes), self.config.encoder
        step = self._embed()
        groups = round(float(subnet["heads"]) * encoder.kv_heads)
        units = round(float(subnet["ffn"]) * encoder.ffn)
        depth, bits = int(subnet["depth"]), bits_of(subnet)
        for i in self._kept(depth):
            layer = self.layers[i]
            assert isinstance(layer, Layer)
            cost = Cost(layer.macs(groups, units, length), layer.bytes(groups, units, bits))
            run = partial(layer, groups, units)
            step = step_of(bits, self.bits, ("layer", i, groups, units), run, (step,), cost)
        exit_ = self.exits[str(depth)]
        assert isinstance(exit_, Exit)
        width = pooled_width(self.config)
        parts = (exit_, width, self.final_norm)
        run, raw = partial(_ANSWERS[self.config.kind], *parts), None
        if self.config.kind == "embedding":
            raw = partial(pooled, *parts)
        cost = Cost(exit_.macs(width), exit_.bytes(width, self.final_norm))
        answer = Step(("head", depth), run, (step,), cost, raw)
        return Plan(dict.fromkeys(wanted_tasks(self.tasks, tasks), answer))

    def _kept(self, depth: int) -> Sequence[int]:
        kept = self.config.kept
        return range(depth) if kept is None else kept[self.config.depths.index(depth)]

    def _embed(self) -> Step:
        held = bytes_of(self.embedding)
        if isinstance(self.embedding, PatchEmbedding):
            cost = Cost(self.embedding.macs(), held)
            return Step(("embed",), self.embedding, ("image",), cost)
        if isinstance(self.embedding, JoinedEmbedding):
            run, takes = self.embedding.join, ("query", "document")
            return Step(("embed",), run, takes, Cost(bytes=held))
        return Step(("embed",), self.embedding, ("text",), Cost(bytes=held))


def _score(exit_: Exit, dim: int, final_norm: nn.Module | None, hidden: Ragged) -> Tensor:
    """Map the packed output of a layer to a number for each row."""
    return pooled(exit_, dim, final_norm, hidden)[:, 0]


_ANSWERS = {"classes": pooled, "score": _score, "embedding": unit_vectors}

FAMILY = Family(HeadedConfig, Headed)
