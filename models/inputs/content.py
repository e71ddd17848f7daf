"""Contents of inputs as clients give them, before a model's input type has read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeAlias

from numpy.typing import NDArray

Side = Literal["left", "right"]


class InvalidInputError(ValueError):
    """The client's content is not an input of the model. The message says why and what is."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """An image file.

    Attributes:
        data: PNG, JPEG or WebP.
    """

    data: bytes


@dataclass(frozen=True, slots=True)
class Text:
    """A text, or the tokens of one.

    Attributes:
        content: The text, or token ids that the client made.
        prompt: Name of a template of the model; None for its default.
        truncate: Which end to cut where it is too long; None to refuse it.
        max_tokens: What is too long; None for what the model takes.
    """

    content: str | Sequence[int]
    prompt: str | None = None
    truncate: Side | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Array:
    """Numbers.

    Attributes:
        values: Of an image, uint8 RGB of shape [height, width, 3] or what is normalised already,
            float32 [3, height, width]; of a tensor, its values.
    """

    values: NDArray[Any]


Content: TypeAlias = Encoded | Text | Array
_NAMES = {Encoded: "images", Text: "text", Array: "arrays"}


_TAKEN = {"image": "images", "text": "text", "tensor": "numbers", "adapter": "adapters"}


def no_text(kinds: Iterable[str]) -> InvalidInputError:
    """Return the error for a text where a model has inputs of other kinds."""
    takes = " and ".join(dict.fromkeys(_TAKEN[kind] for kind in kinds))
    return InvalidInputError(f"this model takes {takes}, not text")


def refuse(takes: str, content: Content) -> NoReturn:
    """Raise for a content of another kind than an input takes."""
    found = _NAMES[type(content)]
    if isinstance(content, Array):
        found = "images" if takes == "text" else "arrays"
    raise InvalidInputError(f"this model takes {takes}, not {found}")
