"""What models take: one type per modality, several of them by name in one model.

An *item* is what a model answers for at once: some of its inputs, each with the digest of its
content. Nothing outside this folder asks what type an input is.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias

from models.core import Shape, Shapes
from models.inputs.adapter import KIND as ADAPTER
from models.inputs.content import Content, InvalidInputError, no_text
from models.inputs.signature import Signature
from models.nn.ragged import Value
from models.space import Axis
from models.space import Value as Choice

__all__ = ["Content", "Given", "InputType", "Inputs", "InvalidInputError", "Item", "Slot"]


class InputType(Protocol):
    """How single inputs of one kind become what plans start from.

    Attributes:
        kind: ``image``, ``text``, ``tensor`` or ``adapter``.
        has_length: Whether inputs are sequences; the first size of their shape is their length.
    """

    kind: ClassVar[str]

    @property
    def has_length(self) -> bool: ...  # noqa: D102

    def decode(self, content: Content) -> Any:
        """Return the model's input; InvalidInputError if the content is none."""

    def decode_all(self, contents: Sequence[Content]) -> list[Any]:
        """Return what `decode` does of each; some kinds are read sooner together."""

    def shape_of(self, value: Any) -> Shape:
        """Return the shape that plans for this input are made for."""

    def plan_shape(self, length: int | None) -> Shape:
        """Return the shape of a length, or the largest; InvalidInputError if there is none such."""

    def bucket(self, value: Any) -> Hashable:
        """Return what must be equal for two inputs to share a batch."""

    def size(self, value: Any) -> int:
        """Return what the input adds to a batch's token budget; 0 where only rows count."""

    def digest(self, value: Any) -> Hashable:
        """Return what is equal for equal contents and for no others."""

    def collate(self, values: Sequence[Any]) -> Value:
        """Return several inputs as one batch."""

    def example(self, length: int | None = None) -> Any:
        """Return an input to warm up with, short or of a length."""

    def describe(self) -> dict[str, Any]:
        """Return what a client must know to make one, as JSON values."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A named place for an input.

    Attributes:
        type: What goes there.
        required: Whether every item has it.
    """

    type: InputType
    required: bool = True


class Given(NamedTuple):
    """One input of an item.

    Attributes:
        value: What the type has made of it, without a batch dimension.
        digest: Equal for equal contents.
        size: Tokens; 0 where inputs have no length.
    """

    value: Any
    digest: Hashable
    size: int


Item: TypeAlias = Mapping[str, Given]


class Inputs(Mapping[str, Slot]):
    """All inputs of a model, by name, in the model's order."""

    def __init__(self, slots: Mapping[str, Slot]) -> None:
        """Index the inputs; ValueError if there is none."""
        if not slots:
            raise ValueError("inputs=[]: at least one is needed")
        self._slots = dict(slots)

    @classmethod
    def of(cls, name: str, input_type: InputType) -> Inputs:
        """Return the inputs of a model that takes one thing."""
        return cls({name: Slot(input_type)})

    def __getitem__(self, name: str) -> Slot:
        return self._slots[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def has_length(self) -> bool:
        """Whether any input is a sequence."""
        return any(slot.type.has_length for slot in self._slots.values())

    @property
    def only(self) -> str | None:
        """The name of the one input that is required; None if there are several."""
        required = [name for name, slot in self._slots.items() if slot.required]
        return required[0] if len(required) == 1 else None

    @property
    def adapter(self) -> str | None:
        """The name of the input that names an adapter; None if there is none."""
        return next(iter(self.of_kind(ADAPTER)), None)

    @property
    def adapters(self) -> Sequence[str]:
        """Names of the adapters that there are."""
        found: Sequence[str] = self[self.adapter].type.names if self.adapter else ()  # type: ignore[attr-defined]
        return found

    def of_kind(self, kind: str) -> list[str]:
        """Return the names of the inputs of a kind."""
        return [name for name, slot in self._slots.items() if slot.type.kind == kind]

    def name_for(self, kind: str) -> str:
        """Return the input that a request means which knows only one kind of input.

        Of a model that has none of the kind it is the first one, which then says what it takes.
        """
        return next(iter(self.of_kind(kind) or self))

    @property
    def signature(self) -> Signature:
        """Names and kinds, without what is needed to read them."""
        kinds = {name: slot.type.kind for name, slot in self._slots.items()}
        return Signature(kinds, frozenset(n for n, slot in self._slots.items() if slot.required))

    def check(self, names: Iterable[str]) -> None:
        """Refuse an item that has no input, lacks one, or has one that the model does not take.

        Raises:
            InvalidInputError: Naming the input.
        """
        found = set(names)
        if not found:
            raise InvalidInputError(f"an item has one input or more, of {list(self)}")
        if unknown := sorted(found - self._slots.keys()):
            raise InvalidInputError(f"input {unknown[0]!r} is not known; one of {list(self)}")
        for name, slot in self._slots.items():
            if slot.required and name not in found:
                raise InvalidInputError(f"input {name!r} is required")

    def item(self, values: Mapping[str, Any]) -> Item:
        """Return an item of decoded inputs."""
        return {name: self.given(name, value) for name, value in values.items()}

    def given(self, name: str, value: Any) -> Given:
        """Return one decoded input as part of an item."""
        of = self._slots[name].type
        return Given(value, of.digest(value), of.size(value))

    def shapes(self, item: Item) -> Shapes:
        """Return the shapes that plans for an item are made for."""
        return {name: self._slots[name].type.shape_of(one.value) for name, one in item.items()}

    def upper(self, items: Iterable[Item]) -> Shapes:
        """Return shapes that no item exceeds: of each input, of each size, the largest."""
        found: dict[str, Shape] = {}
        for item in items:
            for name, shape in self.shapes(item).items():
                known = found.get(name, shape)
                found[name] = tuple(map(max, known, shape))
        return found

    def plan_shapes(self, length: int | None = None, names: Iterable[str] | None = None) -> Shapes:
        """Return shapes to plan for without an item.

        Args:
            length: Of each input that has one; None for the largest.
            names: Of the inputs that are there; None for all.

        Raises:
            InvalidInputError: If no input has a length, or one cannot have this one.
        """
        if length is not None and not self.has_length:
            kinds = [slot.type.kind for slot in self._slots.values()]
            raise InvalidInputError(f"tokens={length}: {no_text(kinds)}")
        return {
            name: self._slots[name].type.plan_shape(
                length if self._slots[name].type.has_length else None
            )
            for name in (self if names is None else names)
        }

    def lengths(self, shapes: Shapes) -> dict[str, int]:
        """Return the length of each input that has one."""
        return {
            name: shape[0] for name, shape in shapes.items() if self._slots[name].type.has_length
        }

    def num_tokens(self, shapes: Shapes) -> int:
        """Return the tokens of an item of some shapes; 0 where its inputs have no length."""
        return sum(self.lengths(shapes).values())

    def bucket(self, item: Item) -> Hashable:
        """Return what must be equal for two items to share a batch."""
        if len(item) == 1:
            ((name, one),) = item.items()
            return (name, self._slots[name].type.bucket(one.value))
        return tuple((n, self._slots[n].type.bucket(item[n].value)) for n in sorted(item))

    def collate(self, name: str, values: Sequence[Any]) -> Value:
        """Return several inputs of one name as a batch."""
        return self._slots[name].type.collate(values)

    def batch(self, items: Sequence[Item]) -> dict[str, Value]:
        """Return items that have the same inputs as one batch, by name."""
        return {name: self.collate(name, [item[name].value for item in items]) for name in items[0]}

    def example(self, length: int | None = None, names: Iterable[str] | None = None) -> Item:
        """Return an item to warm up with, short or of a length, with all inputs or some."""
        found = {}
        for name in self if names is None else names:
            of = self._slots[name].type
            found[name] = of.example(length if of.has_length else None)
        return self.item(found)

    def longest(self, names: Iterable[str] | None = None) -> Item:
        """Return an item of the greatest lengths, with all inputs or some."""
        types = {name: self._slots[name].type for name in (self if names is None else names)}
        return self.item(
            {
                name: of.example(of.plan_shape(None)[0] if of.has_length else None)
                for name, of in types.items()
            }
        )

    def given_choices(self, axes: Iterable[Axis], names: Iterable[str]) -> dict[str, Choice]:
        """Return what the inputs that are there fix on axes of kind ``given``.

        Raises:
            InvalidInputError: If the model has no subnet for these inputs.
        """
        given = [axis for axis in axes if axis.kind == "given"]
        if not given:
            return {}
        present = set(names)
        value = "+".join(name for name in self if name in present)
        for axis in given:
            if value not in axis.values:
                raise InvalidInputError(
                    f"inputs {value!r} do not go together; one of {list(axis.values)}"
                )
        return {axis.name: value for axis in given}


def num_tokens(item: Item) -> int:
    """Return the tokens of an item; 0 where its inputs have no length."""
    return sum(one.size for one in item.values())
