"""Multi-exit transformer encoder: any depth, any share of heads and units, any leading dimensions.

Axes: ``depth`` (layers run before the exit; 0 for the static exit), ``heads`` and ``ffn`` (share of
each layer's heads and feed-forward units, most important first) and ``dim`` (leading dimensions of
the vector, cut and then normalised). A deeper plan extends a shallower one's path, so an answer can
be deepened. Where it is offered, ``bits``: whether the layers' products are of floats or of int8.

Sources: Li et al. 2024, 2D Matryoshka Sentence Embeddings, arXiv 2402.14776, for depth and
dimensions; Wang et al. 2024, Starbucks, arXiv 2410.13230, for fixed pairs of both; Gurioli et al.
2025, ModularStarEncoder, arXiv 2503.03008, for a projection per exit; Hou et al. 2020, DynaBERT,
arXiv 2004.04037, for ranked heads and units.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ConfigDict
from torch import Tensor, nn

from models.bits import axis_of, bits_of, check_bits, step_of, variant_of
from models.core import Cost, Plan, Shapes, Step
from models.families import Family
from models.inputs import Inputs
from models.inputs.text import TOKENIZER, TextInput
from models.inputs.text_config import TextConfig
from models.nn.architecture import TransformerConfig
from models.nn.exit import Exit, pooled, pooled_width, unit_vectors
from models.nn.head import HeadActivation, HeadLayer
from models.nn.pooling import Pooling, poolings_of
from models.nn.quantized import bytes_of
from models.nn.ragged import Ragged
from models.nn.static import Static
from models.nn.transformer import Embedding, Layer, make_norm
from models.space import Axis, Space, Subnet, Value
from models.tasks import Metric, Task, wanted_tasks


@dataclass(frozen=True)
class ExitsConfig:
    """Everything that fixes the architecture; kept in the checkpoint's manifest.

    Attributes:
        encoder: The transformer.
        text: How text becomes tokens.
        tasks: Metric of each task. All tasks are answered by the same vector; they differ in what
            the table says of a subnet.
        depths: Exit layers, ascending; the last is the number of layers, 0 the static exit.
        dims: Leading dimensions that may be asked for, ascending; the last is the whole vector.
        heads: Shares of the heads, ascending, the last 1.
        ffn: Shares of the feed-forward units, ascending, the last 1.
        bits: Of the layers' linear weights: 32, or 8 and 32.
        pairs: The only (depth, dim) that go together; None for any.
        pooling: Of the tokens of a row into one vector; several are joined.
        exit_norm: ``none``: the layer's output as it is. ``final``: the final norm at every exit.
            ``last``: the final norm after the last layer only, which is what a pre-norm model's
            public hidden states hold. ``own``: a norm per exit.
        head: Layers per exit after the pooling.
        projection: Width of a linear map per exit, after the head; None for none.
        projection_activation: Of what was projected.
        condition: Width of a learned embedding of the exit, joined to what is projected.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    encoder: TransformerConfig
    text: TextConfig
    tasks: Mapping[str, Metric]
    depths: tuple[int, ...]
    dims: tuple[int, ...]
    heads: tuple[float, ...] = (1.0,)
    ffn: tuple[float, ...] = (1.0,)
    bits: tuple[int, ...] = (32,)
    pairs: tuple[tuple[int, int], ...] | None = None
    pooling: Pooling | tuple[Pooling, ...] = "mean"
    exit_norm: Literal["none", "final", "last", "own"] = "none"
    head: tuple[HeadLayer, ...] = ()
    projection: int | None = None
    projection_activation: HeadActivation = "identity"
    condition: int = 0

    def __post_init__(self) -> None:
        """Refuse an architecture that cannot be built.

        Raises:
            ValueError: Naming the field, its value and what is allowed.
        """
        if not poolings_of(self.pooling):
            raise ValueError("pooling is empty; at least one is needed")
        _ascending("depths", self.depths, self.encoder.layers, "0 or more")
        _ascending("dims", self.dims, self.projection or pooled_width(self))
        for name, shares, units in (
            ("heads", self.heads, self.encoder.kv_heads),
            ("ffn", self.ffn, self.encoder.ffn),
        ):
            _ascending(name, shares, 1)
            for share in shares:
                if abs(share * units - round(share * units)) > 1e-6:
                    raise ValueError(f"{name}={share} of {units} is not a whole number")
        check_bits(self.bits)
        if not self.tasks:
            raise ValueError("tasks is empty; at least one is needed")
        for depth, dim in self.pairs or ():
            if depth not in self.depths or dim not in self.dims:
                raise ValueError(f"pairs: ({depth}, {dim}) is not among depths and dims")
        for i in (0, -1):  # the cheapest and the whole must be on offer
            if self.pairs is not None and (end := (self.depths[i], self.dims[i])) not in self.pairs:
                raise ValueError(f"pairs={list(self.pairs)} must contain {end}")
        if self.exit_norm in ("final", "last") and self.encoder.norm == "post":
            raise ValueError(f"exit_norm={self.exit_norm!r}: a post-norm encoder has no final norm")
        for name, off in (("condition", 0), ("projection_activation", "identity")):
            if getattr(self, name) != off and not self.projection:
                raise ValueError(f"{name}={getattr(self, name)!r} needs a projection")
        if self.text.max_length > self.encoder.max_positions:
            raise ValueError(
                f"text.max_length={self.text.max_length} exceeds "
                f"encoder.max_positions={self.encoder.max_positions}"
            )


def _ascending(name: str, values: tuple[float, ...], last: float, first: str = "positive") -> None:
    is_low = bool(values) and (values[0] < 0 or (first == "positive" and values[0] == 0))
    if list(values) != sorted(set(values)) or not values or is_low or values[-1] != last:
        raise ValueError(f"{name}={list(values)} must be {first}, ascend and end at {last}")


class Exits(nn.Module):
    """The family as an `Elastic` model; see `models.elastic.Elastic` for the contract."""

    assets = (TOKENIZER,)

    def __init__(self, name: str, config: ExitsConfig) -> None:
        super().__init__()
        self.name = name
        self.config = config
        encoder = config.encoder
        self.embedding = Embedding(encoder)
        self.layers = nn.ModuleList(Layer(encoder, i) for i in range(encoder.layers))
        has_final = encoder.norm == "pre" and config.exit_norm in ("final", "last")
        self.final_norm = make_norm(encoder) if has_final else None
        self.exits = nn.ModuleDict({str(depth): Exit(config) for depth in config.depths if depth})
        self.static = self.make_static() if config.depths[0] == 0 else None
        self.bits = config.bits[-1]
        self._text: TextInput | None = None
        self._costs: dict[tuple[object, ...], Cost] = {}  # planning is on the path of requests

    def variant(self, choices: Mapping[str, Value]) -> Exits:
        """Return the model with its layers' weights in other bits; all others are shared."""
        return variant_of(self, choices)

    def attach(self, folder: Path) -> None:
        """Read the tokenizer from the checkpoint's folder.

        Raises:
            ValueError: If there is none, or it makes ids that have no embedding.
        """
        self.take(TextInput.load(self.config.text, folder), folder)

    def take(self, text: TextInput, folder: Path) -> None:
        """Take the tokenizer of a folder; ValueError if it makes ids that have no embedding."""
        rows = self.config.encoder.vocab_size
        if text.vocab_size > rows:
            raise ValueError(f"{folder / TOKENIZER}: {text.vocab_size} ids, vocab_size={rows}")
        self._text = text

    @property
    def text(self) -> TextInput:
        """What text must become; RuntimeError before `attach`."""
        if self._text is None:
            raise RuntimeError(f"{self.name} has no tokenizer yet: attach a folder first")
        return self._text

    @property
    def inputs(self) -> Inputs:
        """A text; RuntimeError before `attach`."""
        return Inputs.of("text", self.text)

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """One embedding task per metric."""
        return {
            name: Task(name, "embedding", metric=metric)
            for name, metric in self.config.tasks.items()
        }

    @cached_property
    def space(self) -> Space:
        """Bits where they are offered, depth, heads, ffn and dim; pairs tie depth and dim."""
        config = self.config
        axes = (
            *axis_of(config.bits),
            Axis("depth", config.depths),
            Axis("heads", config.heads),
            Axis("ffn", config.ffn),
            Axis("dim", config.dims, kind="output"),
        )
        if config.pairs is None and self.static is None:
            return Space(axes)
        pairs = frozenset(config.pairs or itertools.product(config.depths, config.dims))
        least = (config.heads[0], config.ffn[0])  # of the static exit, which has no layers

        def go_together(of: Subnet) -> bool:
            is_least = (of["heads"], of["ffn"]) == least
            return (of["depth"], of["dim"]) in pairs and (is_least or of["depth"] != 0)

        return Space(axes, go_together)

    def make_static(self) -> Static:
        """Return a static exit of the model's sizes, with weights to be fitted."""
        config = self.config
        return Static(config.encoder.vocab_size, config.projection or pooled_width(config))

    def widths(self, subnet: Mapping[str, Value]) -> tuple[int, int]:
        """Return the groups of heads and the feed-forward units of every layer."""
        encoder = self.config.encoder
        heads, ffn = float(subnet["heads"]), float(subnet["ffn"])
        return round(heads * encoder.kv_heads), round(ffn * encoder.ffn)

    def vector_space(self, subnet: Mapping[str, Value]) -> Mapping[str, Value]:
        """Return all but bits; the static exit is fitted to the largest; see `models.vectors`."""
        of = subnet if subnet["depth"] else {**self.space.largest, "dim": subnet["dim"]}
        return {name: of[name] for name in ("depth", "heads", "ffn", "dim")}

    def pool(self, depth: int, dim: int, hidden: Ragged) -> Tensor:
        """Map the packed output of layer ``depth`` to vectors, shape [rows, dim]."""
        return pooled(self._exit(depth), dim, self._final_norm(depth), hidden)

    def projection(self, depth: int) -> nn.Linear:
        """Return an exit's projection; ValueError if the model has none."""
        projection = self._exit(depth).projection
        if projection is None:
            raise ValueError(f"{self.name} has no projections")
        return projection

    def tokens(self, shapes: Shapes) -> int:
        """Return the tokens that the layers see; ValueError if the shapes are not the model's."""
        most = self.config.text.max_length
        is_one = shapes.keys() == {"text"} and len(shapes["text"]) == 1
        if not is_one or not 1 <= shapes["text"][0] <= most:
            raise ValueError(
                f"shapes={dict(shapes)} must be {{'text': (tokens,)}}, 1 to {most} of them"
            )
        return shapes["text"][0]

    def plan(self, subnet: Subnet, shapes: Shapes, tasks: Collection[str] | None = None) -> Plan:
        """Return the embedding, one step per layer and an exit; see `models.elastic.Elastic`."""
        subnet = self.space.check(subnet)
        length = self.tokens(shapes)
        depth, dim, bits = int(subnet["depth"]), int(subnet["dim"]), bits_of(subnet)
        if depth == 0 and self.static is not None:
            answer = self.static.answer("text", dim, length)
            return Plan(dict.fromkeys(wanted_tasks(self.tasks, tasks), answer))
        cost = Cost(bytes=bytes_of(self.embedding))
        step = Step(("embed",), self.embedding, ("text",), cost)
        groups, units = self.widths(subnet)
        for i in range(depth):
            if i < 2:  # from the second on all alike; the first may lack a norm
                cost = self._cost(self._layer_cost, i, groups, units, length, bits)
            key = ("layer", i, groups, units)
            run = partial(self.layers[i], groups, units)
            step = step_of(bits, self.bits, key, run, (step,), cost)
        parts = (self._exit(depth), dim, self._final_norm(depth))
        run, raw = partial(unit_vectors, *parts), partial(pooled, *parts)
        cost = self._cost(self._exit_cost, depth, dim)
        answer = Step(("exit", depth, dim), run, (step,), cost, raw)
        return Plan(dict.fromkeys(wanted_tasks(self.tasks, tasks), answer))

    def _cost(self, count: Callable[..., Cost], *where: int) -> Cost:
        key = (count.__name__, *where)
        if key not in self._costs:
            self._costs[key] = count(*where)
        return self._costs[key]

    def _layer_cost(self, i: int, groups: int, units: int, length: int, bits: int) -> Cost:
        layer = self.layers[i]
        assert isinstance(layer, Layer)
        return Cost(layer.macs(groups, units, length), layer.bytes(groups, units, bits))

    def _exit_cost(self, depth: int, dim: int) -> Cost:
        exit_ = self._exit(depth)
        return Cost(exit_.macs(dim), exit_.bytes(dim, self._final_norm(depth)))

    def _exit(self, depth: int) -> Exit:
        exit_ = self.exits[str(depth)]
        assert isinstance(exit_, Exit)
        return exit_

    def _final_norm(self, depth: int) -> nn.Module | None:
        applies = self.config.exit_norm == "final" or depth == self.config.encoder.layers
        return self.final_norm if applies else None


FAMILY = Family(ExitsConfig, Exits)
