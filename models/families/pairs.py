"""Two texts, scored by one encoder in three ways: apart, one read by the other, or together.

Axes: ``interaction``, which only the task ``score`` depends on. ``bi``: neither text sees the
other, and the score is a line of their vectors' cosine. ``once``: the document is encoded once for
all queries, as with ``bi``, and the query reads it in every layer. ``cross``: each reads the other.
Besides ``depth`` (layers run before the exit), ``heads`` and ``ffn`` (share of each layer's heads
and feed-forward units, most important first) and, where it is offered, ``bits``. All ways share the
encoder's weights. The task ``embedding`` is the document's vector, which depends on no query.

Sources: Song et al. 2023, Uni-Encoder, arXiv 2106.01263, for ``once``; Liu et al. 2022,
Trans-Encoder, arXiv 2109.13059, for two ways with one encoder; see `models.nn.meeting`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from pydantic import ConfigDict
from torch import nn

from models.bits import axis_of, bits_of, check_bits, step_of, variant_of
from models.core import Cost, Plan, Shapes, Step
from models.families import Family
from models.inputs import Inputs, Slot
from models.inputs.text import TOKENIZER, TextInput
from models.inputs.text_config import TextConfig
from models.nn import meeting
from models.nn.architecture import TransformerConfig
from models.nn.exit import Exit, pooled, unit_vectors
from models.nn.head import HeadActivation, HeadLayer
from models.nn.pooling import Pooling
from models.nn.quantized import bytes_of
from models.nn.transformer import Embedding, Layer
from models.space import Axis, Space, Subnet, Value
from models.tasks import Metric, Task, wanted_tasks

Interaction = Literal["bi", "once", "cross"]
INTERACTIONS: tuple[Interaction, ...] = get_args(Interaction)
SCORE, EMBEDDING = "score", "embedding"
QUERY, DOCUMENT = "query", "document"
_CLOSED = -5.0  # a reach at which texts hardly see each other


@dataclass(frozen=True)
class PairsConfig:
    """Everything that fixes the architecture; kept in the checkpoint's manifest.

    Attributes:
        encoder: The transformer.
        query: How a query becomes tokens.
        document: Likewise a document.
        depths: Layers after which there is an exit, ascending; the last is their number.
        metric: What the table scores.
        interactions: Ways of scoring, cheapest first.
        heads: Shares of the heads, ascending, the last 1.
        ffn: Shares of the feed-forward units, ascending, the last 1.
        bits: Of the layers' linear weights: 32, or 8 and 32.
        pooling: Of a text's tokens into one vector.
        projection: Width of a linear map per exit, which gives the vectors.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    encoder: TransformerConfig
    query: TextConfig
    document: TextConfig
    depths: tuple[int, ...]
    projection: int
    metric: Metric = "map"
    interactions: tuple[Interaction, ...] = INTERACTIONS
    heads: tuple[float, ...] = (1.0,)
    ffn: tuple[float, ...] = (1.0,)
    bits: tuple[int, ...] = (32,)
    pooling: Pooling = "mean"
    exit_norm: Literal["none"] = "none"
    head: tuple[HeadLayer, ...] = ()
    projection_activation: HeadActivation = "identity"
    condition: Literal[0] = 0

    def __post_init__(self) -> None:
        """Refuse an architecture that cannot be built.

        Raises:
            ValueError: Naming the field, its value and what is allowed.
        """
        for name, values, last in (
            ("depths", self.depths, self.encoder.layers),
            ("heads", self.heads, 1),
            ("ffn", self.ffn, 1),
        ):
            told = list(values)
            if not told or told != sorted(set(told)) or told[0] <= 0 or told[-1] != last:
                raise ValueError(f"{name}={told} must be positive, ascend and end at {last}")
        in_order = [one for one in INTERACTIONS if one in self.interactions]
        if not in_order or list(self.interactions) != in_order:
            raise ValueError(
                f"interactions={list(self.interactions)} must be some of {list(INTERACTIONS)}, in "
                "this order"
            )
        check_bits(self.bits)
        encoder = self.encoder
        if encoder.positions != "absolute" or encoder.norm != "post":
            raise ValueError(
                f"encoder: positions={encoder.positions!r} and norm={encoder.norm!r} must be "
                "'absolute' and 'post'"
            )
        for name, text in ((QUERY, self.query), (DOCUMENT, self.document)):
            if text.max_length > encoder.max_positions:
                raise ValueError(
                    f"{name}.max_length={text.max_length} exceeds "
                    f"encoder.max_positions={encoder.max_positions}"
                )


class Pairs(nn.Module):
    """The family as an `Elastic` model; see `models.elastic.Elastic` for the contract."""

    assets = (TOKENIZER,)

    def __init__(self, name: str, config: PairsConfig) -> None:
        super().__init__()
        self.name = name
        self.config = config
        encoder = config.encoder
        self.embedding = Embedding(encoder)
        self.layers = nn.ModuleList(Layer(encoder, i) for i in range(encoder.layers))
        self.reach = nn.ParameterList(
            torch.full((encoder.heads,), _CLOSED) for _ in range(encoder.layers)
        )
        self.exits = nn.ModuleDict({str(depth): Exit(config) for depth in config.depths})
        self.scores = nn.ModuleDict(
            {
                f"{way}-{depth}": (
                    nn.Linear(1, 1) if way == "bi" else meeting.PairScore(config.projection)
                )
                for way in config.interactions
                for depth in config.depths
            }
        )
        self.bits = config.bits[-1]
        self._text: tuple[TextInput, TextInput] | None = None

    def variant(self, choices: Mapping[str, Value]) -> Pairs:
        """Return the model with its layers' weights in other bits; all others are shared."""
        return variant_of(self, choices)

    def attach(self, folder: Path) -> None:
        """Read the tokenizer from the checkpoint's folder.

        Raises:
            ValueError: If there is none, or it makes ids that have no embedding.
        """
        config = self.config
        query, document = (TextInput.load(text, folder) for text in (config.query, config.document))
        if query.vocab_size > config.encoder.vocab_size:
            raise ValueError(
                f"{folder / TOKENIZER}: {query.vocab_size} ids, "
                f"vocab_size={config.encoder.vocab_size}"
            )
        self._text = (query, document)

    @property
    def inputs(self) -> Inputs:
        """A query and a document; RuntimeError before `attach`."""
        if self._text is None:
            raise RuntimeError(f"{self.name} has no tokenizer yet: attach a folder first")
        return Inputs({QUERY: Slot(self._text[0]), DOCUMENT: Slot(self._text[1])})

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """The score of both texts, and the vector of the document."""
        metric = self.config.metric
        return {
            SCORE: Task(SCORE, "score", metric=metric),
            EMBEDDING: Task(EMBEDDING, "embedding", metric=metric),
        }

    @cached_property
    def space(self) -> Space:
        """Interaction, depth, heads and ffn. Bits where they are offered."""
        config = self.config
        return Space(
            (
                *axis_of(config.bits),
                Axis("interaction", config.interactions),
                Axis("depth", config.depths),
                Axis("heads", config.heads),
                Axis("ffn", config.ffn),
            )
        )

    def vector_space(self, subnet: Mapping[str, Value]) -> Mapping[str, Value]:
        """Return all that vectors depend on but bits; see `models.vectors`."""
        return {name: subnet[name] for name in ("depth", "heads", "ffn")}

    def tokens(self, shapes: Shapes) -> int:
        """Return the tokens that the layers see; ValueError if the shapes are not the model's."""
        return sum(self._lengths(shapes).values())

    def _lengths(self, shapes: Shapes) -> dict[str, int]:
        limits = {
            QUERY: self.config.query.max_length,
            DOCUMENT: self.config.document.max_length,
        }
        if shapes.keys() != limits.keys() or not all(
            len(shape) == 1 and 1 <= shape[0] <= limits[name] for name, shape in shapes.items()
        ):
            raise ValueError(f"shapes={dict(shapes)} must have a length each, at most {limits}")
        return {name: shape[0] for name, shape in shapes.items()}

    def plan(self, subnet: Subnet, shapes: Shapes, tasks: Collection[str] | None = None) -> Plan:
        """Return the steps of both texts as far as the tasks need; see `models.elastic.Elastic`."""
        wanted = wanted_tasks(self.tasks, tasks)
        subnet = self.space.check(subnet)
        part = _Part(self, subnet, self._lengths(shapes))
        answers = {}
        for task in wanted:
            answers[task] = (
                part.vector(part.alone(DOCUMENT))
                if task == EMBEDDING
                else part.score(str(subnet["interaction"]))
            )
        return Plan(answers)


class _Part:
    """The steps of one subnet for texts of some lengths."""

    def __init__(self, model: Pairs, subnet: Subnet, lengths: Mapping[str, int]) -> None:
        encoder = model.config.encoder
        self._model, self._lengths = model, lengths
        self._groups = round(float(subnet["heads"]) * encoder.kv_heads)
        self._units = round(float(subnet["ffn"]) * encoder.ffn)
        self._depth, self._bits = int(subnet["depth"]), bits_of(subnet)

    def score(self, interaction: str) -> Step:
        """Return the step that answers the score."""
        model, depth, width = self._model, self._depth, self._model.config.projection
        head, exit_ = model.scores[f"{interaction}-{depth}"], self._exit
        key, held = ("score", interaction, depth), bytes_of(head)
        if interaction == "bi":
            vectors = tuple(self.vector(self.alone(side)) for side in (QUERY, DOCUMENT))
            assert isinstance(head, nn.Linear)
            return Step(key, partial(meeting.cosine_score, head), vectors, Cost(1, held))
        assert isinstance(head, meeting.PairScore)
        held += exit_.bytes(width, None)
        if interaction == "once":
            document = self.vector(self.alone(DOCUMENT))
            run = partial(meeting.once_score, head, exit_, width)
            cost = Cost(3 * width + exit_.macs(width), held)
            return Step(key, run, (self.reading(), document), cost)
        run = partial(meeting.cross_score, head, exit_, width)
        return Step(key, run, self.together(), Cost(3 * width + 2 * exit_.macs(width), held))

    def alone(self, side: str) -> Step:
        """Return the last layer's values of a text that sees itself."""
        return self._alone(side)[-1]

    def reading(self) -> Step:
        """Return the last layer's values of the query, which reads the document."""
        documents = self._alone(DOCUMENT)
        query = self._embedded(QUERY)
        for i in range(self._depth):
            own, others = self._memory(i, query, QUERY), self._memory(i, documents[i], DOCUMENT)
            query = self._attending(i, query, own, others, QUERY)
        return query

    def together(self) -> tuple[Step, Step]:
        """Return the last layer's values of texts that read each other."""
        query, document = self._embedded(QUERY), self._embedded(DOCUMENT)
        for i in range(self._depth):
            first, second = self._memory(i, query, QUERY), self._memory(i, document, DOCUMENT)
            query, document = (
                self._attending(i, query, first, second, QUERY),
                self._attending(i, document, second, first, DOCUMENT),
            )
        return query, document

    def vector(self, hidden: Step) -> Step:
        """Return a text's unit vector."""
        width, exit_ = self._model.config.projection, self._exit
        parts = (exit_, width, None)
        cost = Cost(exit_.macs(width), exit_.bytes(width, None))
        run, raw = partial(unit_vectors, *parts), partial(pooled, *parts)
        return Step(("exit", self._depth), run, (hidden,), cost, raw)

    def _alone(self, side: str) -> list[Step]:
        """Return what enters each layer of a text that sees itself, and what leaves the last."""
        steps = [self._embedded(side)]
        for i in range(self._depth):
            layer = self._layer(i)
            cost = Cost(
                layer.macs(self._groups, self._units, self._lengths[side]),
                layer.bytes(self._groups, self._units, self._bits),
            )
            run = partial(layer, self._groups, self._units)
            steps.append(self._step(("layer", i, self._groups, self._units), run, steps[-1:], cost))
        return steps

    def _embedded(self, side: str) -> Step:
        embedding = self._model.embedding
        return Step(("embed",), embedding, (side,), Cost(bytes=bytes_of(embedding)))

    def _memory(self, i: int, hidden: Step, side: str) -> Step:
        """Return the keys and values of a text's tokens in a layer."""
        layer, groups = self._layer(i), self._groups
        cost = Cost(
            meeting.remember_macs(layer, groups, self._lengths[side]),
            meeting.remember_bytes(layer, groups, self._bits),
        )
        run = partial(meeting.remember, layer, groups)
        return self._step(("memory", i, groups), run, [hidden], cost)

    def _attending(self, i: int, hidden: Step, own: Step, others: Step, side: str) -> Step:
        """Return what leaves a layer in which a text's tokens see another text's too."""
        layer, groups, units = self._layer(i), self._groups, self._units
        length = self._lengths[side]
        cost = Cost(
            meeting.attend_macs(layer, groups, units, length, sum(self._lengths.values()) - length),
            meeting.attend_bytes(layer, groups, units, self._bits),
        )
        run = partial(meeting.attend, layer, groups, units, self._model.reach[i])
        return self._step(("meeting", i, groups, units), run, [hidden, own, others], cost)

    def _step(
        self, key: tuple[Hashable, ...], run: Callable[..., Any], takes: Sequence[Step], cost: Cost
    ) -> Step:
        return step_of(self._bits, self._model.bits, key, run, tuple(takes), cost)

    def _layer(self, i: int) -> Layer:
        layer = self._model.layers[i]
        assert isinstance(layer, Layer)
        return layer

    @property
    def _exit(self) -> Exit:
        exit_ = self._model.exits[str(self._depth)]
        assert isinstance(exit_, Exit)
        return exit_


FAMILY = Family(PairsConfig, Pairs)
