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

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import ClassVar, Literal, get_args

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
from models.nn.meeting import CosineScore, PairScore
from models.nn.pooling import Pooling
from models.nn.quantized import bytes_of
from models.nn.transformer import Embedding, Layer
from models.space import Axis, Space, Subnet, Value, check_ascending
from models.tasks import Metric, Task, wanted_tasks

Interaction = Literal["bi", "once", "cross"]
INTERACTIONS: tuple[Interaction, ...] = get_args(Interaction)
_WAYS = {"bi": 0, "once": 1, "cross": 2}  # texts whose values depend on the other
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
            check_ascending(name, values, last)
        check_bits(self.bits)
        encoder, kind = self.encoder, (self.encoder.positions, self.encoder.norm)
        if kind != ("absolute", "post"):
            raise ValueError(f"encoder: positions and norm {kind} must be ('absolute', 'post')")
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
        self.scores = nn.ModuleDict()
        for way, depth in product(INTERACTIONS, config.depths):
            head = CosineScore() if way == "bi" else PairScore(config.projection)
            self.scores[f"{way}-{depth}"] = head
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
        rows = config.encoder.vocab_size
        if query.vocab_size > rows:
            raise ValueError(f"{folder / TOKENIZER}: {query.vocab_size} ids, vocab_size={rows}")
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
                Axis("interaction", INTERACTIONS),
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
        config = self.config
        limits = {QUERY: config.query.max_length, DOCUMENT: config.document.max_length}
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
        if SCORE in wanted:
            answers[SCORE] = part.score(str(subnet["interaction"]))
        if EMBEDDING in wanted:
            answers[EMBEDDING] = part.vector(DOCUMENT)
        return Plan(answers)


class _Part:
    """The steps of one subnet for texts of some lengths."""

    def __init__(self, model: Pairs, subnet: Subnet, lengths: Mapping[str, int]) -> None:
        encoder = model.config.encoder
        self._model, self._lengths = model, lengths
        groups = round(float(subnet["heads"]) * encoder.kv_heads)
        self._widths = (groups, round(float(subnet["ffn"]) * encoder.ffn))
        self._depth, self._bits = int(subnet["depth"]), bits_of(subnet)
        self._layers = [layer for layer in model.layers if isinstance(layer, Layer)]
        exit_ = model.exits[str(self._depth)]
        assert isinstance(exit_, Exit)
        self._exit = exit_
        self._step = partial(step_of, self._bits, model.bits)

    def score(self, way: str) -> Step:
        """Return the step that answers the score."""
        head, exit_ = self._model.scores[f"{way}-{self._depth}"], self._exit
        assert isinstance(head, CosineScore | PairScore)
        if way == "bi":
            takes = (self.vector(QUERY), self.vector(DOCUMENT))
        elif way == "once":
            takes = (self.reading(), self.vector(DOCUMENT))
        else:
            takes = self.together()
        width, pooled_here = self._model.config.projection, _WAYS[way]
        macs = head.in_features + pooled_here * exit_.macs(width)
        held = bytes_of(head) + bool(pooled_here) * exit_.bytes(width, None)
        run = partial(meeting.score, head, exit_, width)
        return Step(("score", way, self._depth), run, takes, Cost(macs, held))

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

    def vector(self, side: str) -> Step:
        """Return the unit vector of a text that sees itself."""
        width, exit_ = self._model.config.projection, self._exit
        parts = (exit_, width, None)
        cost = Cost(exit_.macs(width), exit_.bytes(width, None))
        run, raw = partial(unit_vectors, *parts), partial(pooled, *parts)
        return Step(("exit", self._depth), run, (self._alone(side)[-1],), cost, raw)

    def _alone(self, side: str) -> list[Step]:
        """Return what enters each layer of a text that sees itself, and what leaves the last."""
        steps = [self._embedded(side)]
        for i in range(self._depth):
            layer = self._layers[i]
            macs = layer.macs(*self._widths, self._lengths[side])
            cost = Cost(macs, layer.bytes(*self._widths, self._bits))
            run = partial(layer, *self._widths)
            steps.append(self._step(("layer", i, *self._widths), run, (steps[-1],), cost))
        return steps

    def _embedded(self, side: str) -> Step:
        embedding = self._model.embedding
        return Step(("embed",), embedding, (side,), Cost(bytes=bytes_of(embedding)))

    def _memory(self, i: int, hidden: Step, side: str) -> Step:
        """Return the keys and values of a text's tokens in a layer."""
        layer, groups = self._layers[i], self._widths[0]
        cost = meeting.remember_cost(layer, groups, self._lengths[side], self._bits)
        run = partial(meeting.remember, layer, groups)
        return self._step(("memory", i, groups), run, (hidden,), cost)

    def _attending(self, i: int, hidden: Step, own: Step, others: Step, side: str) -> Step:
        """Return what leaves a layer in which a text's tokens see another text's too."""
        layer, widths = self._layers[i], self._widths
        length, every = self._lengths[side], sum(self._lengths.values())
        cost = meeting.attend_cost(layer, *widths, length, every, self._bits)
        run = partial(meeting.attend, layer, *widths, self._model.reach[i])
        return self._step(("meeting", i, *widths), run, (hidden, own, others), cost)


FAMILY = Family(PairsConfig, Pairs)
