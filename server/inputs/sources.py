"""The inputs of requests as clients send them, and how each becomes the model's input."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from models.inputs import InputType, InvalidInputError, pixels
from models.inputs.content import Array, Content, Encoded, Side, Text
from server.errors import InvalidRequestError

_CHARACTERS_PER_TOKEN = 4  # of English in WordPiece, about
_PEEKED = 1024  # bytes of a file that are looked at to guess its pixels; most headers lie there
_PEEKED_PIECES = 16
_PIXELS_PER_BYTE = 6  # of photos in JPEG, about
_BASE64_STEP = 2**18  # characters undone at once, 0.5 ms; other threads wait meanwhile


class Source(Protocol):
    """One input of a request, as the client sent it."""

    @property
    def num_tokens(self) -> int:
        """About how many tokens it will have, before it is read; 0 where inputs have no length."""

    @property
    def num_pixels(self) -> int:
        """About how many pixels it will have, before it is read; exactly, once it is opened."""

    def opened(self) -> Source:
        """Return it with as much read as tells its pixels; takes no time that grows with them.

        Raises:
            InvalidRequestError: Naming the field, if that cannot be read.
        """

    def decode(self, input_type: InputType) -> Any:
        """Return the model's input.

        Raises:
            InvalidRequestError: Naming the field, if it is none.
        """


Sources: TypeAlias = Mapping[str, Source]
"""Of one item of a request, its inputs by name. Items may share a source: it is read once."""


@dataclass(frozen=True, slots=True)
class Upload:
    """One encoded image of a request.

    Attributes:
        field: Where in the request it was, for errors.
        content: The file's bytes; or text: base64, bare or as a data URL.
        pixels: What its header claims, once that has been read.
    """

    field: str
    content: bytes | str
    pixels: int | None = None

    @property
    def num_tokens(self) -> int:
        """0: images have no length."""
        return 0

    @property
    def num_pixels(self) -> int:
        """What the header claims, if it lies where most do; else by the length of the file."""
        if self.pixels is not None:
            return self.pixels
        try:
            width, height = pixels.size_of(_peeked(self.content), _PEEKED_PIECES)
            return min(pixels.MAX_PIXELS, width * height)
        except pixels.InvalidImageError:
            return min(pixels.MAX_PIXELS, _PIXELS_PER_BYTE * len(self.content))

    def opened(self) -> Upload:
        """Undo base64 and read the header; InvalidRequestError if there is neither, or too much."""
        content = self._bytes()
        try:
            width, height = pixels.size_of(content)
            pixels.check_size(width, height)
            return replace(self, content=content, pixels=width * height)
        except pixels.InvalidImageError as error:
            raise InvalidRequestError(f"{self.field}: {error}", self.field) from None

    def decode(self, input_type: InputType) -> Any:
        """Decode the image; InvalidRequestError if it is not base64 where it should be, or none."""
        return _decoded(input_type, Encoded(self._bytes()), self.field)

    def _bytes(self) -> bytes:
        if isinstance(self.content, str):
            return _from_base64(self.content, self.field)
        return self.content


@dataclass(frozen=True, slots=True)
class Passage:
    """One text of a request.

    Attributes:
        field: Where in the request it was, for errors.
        content: The text, or token ids that the client made.
        prompt: Name of a template of the model; None for its default.
        truncate: Which end to cut where it is too long; None to refuse it.
        max_tokens: What is too long; None for what the model takes.
    """

    field: str
    content: str | Sequence[int]
    prompt: str | None = None
    truncate: Side | None = None
    max_tokens: int | None = None

    @property
    def num_tokens(self) -> int:
        """Of ids their number; of a text a guess."""
        if isinstance(self.content, str):
            return 2 + len(self.content) // _CHARACTERS_PER_TOKEN
        return max(1, len(self.content))

    @property
    def num_pixels(self) -> int:
        """0: texts have none."""
        return 0

    def opened(self) -> Passage:
        """Return it as it is."""
        return self

    def decode(self, input_type: InputType) -> Any:
        """Tokenise the text; InvalidRequestError if it is empty, too long or not of the model."""
        return _decoded(input_type, self.text, self.field)

    @property
    def text(self) -> Text:
        """What the model's input type is given."""
        return Text(self.content, self.prompt, self.truncate, self.max_tokens)


@dataclass(frozen=True, slots=True)
class Pixels:
    """One image of a request that is not encoded.

    Attributes:
        field: Where in the request it was, for errors.
        values: uint8 [height, width, 3], RGB; or float32, what the model's own preprocessing makes
            of an image.
    """

    field: str
    values: NDArray[Any]

    @property
    def num_tokens(self) -> int:
        """0: images have no length."""
        return 0

    @property
    def num_pixels(self) -> int:
        """Their number."""
        return self.values.size // 3

    def opened(self) -> Pixels:
        """Return them as they are."""
        return self

    def decode(self, input_type: InputType) -> Any:
        """Fit and normalise pixels, or check what is normalised; InvalidRequestError if wrong."""
        return _decoded(input_type, Array(self.values), self.field)


@dataclass(frozen=True, slots=True)
class Unread:
    """One input whose content is only read once there is room for it.

    Attributes:
        num_tokens: About how many tokens it will have; 0 where inputs have no length.
        read: Returns the input; InvalidRequestError if there is none.
        num_pixels: How many pixels it will have; 0 where inputs have none.
    """

    num_tokens: int
    read: Callable[[], Source]
    num_pixels: int = 0

    def opened(self) -> Unread:
        """Return it as it is: its size is known."""
        return self

    def decode(self, input_type: InputType) -> Any:
        """Read and decode the input; InvalidRequestError as reading and decoding."""
        return self.read().decode(input_type)


def decode_all(sources: Sequence[Source], input_type: InputType) -> list[Any]:
    """Return the model's inputs of several sources; texts are read together.

    Raises:
        InvalidRequestError: Naming the first that is none.
    """
    texts = [one.text for one in sources if isinstance(one, Passage)]
    if 1 < len(texts) == len(sources):
        try:
            return input_type.decode_all(texts)
        except InvalidInputError:
            pass  # one by one they show which it is
    return [one.decode(input_type) for one in sources]


def _decoded(input_type: InputType, content: Content, field: str) -> Any:
    try:
        return input_type.decode(content)
    except InvalidInputError as error:
        raise InvalidRequestError(f"{field}: {error}", field) from None


def _start_of(text: str) -> int:
    """Return where base64 begins in text that may be a data URL; -1 if it is a wrong one."""
    if not text.startswith("data:"):
        return 0
    start = text.find(";base64,")
    return start + len(";base64,") if 0 <= start < text.find(",") else -1


def _peeked(content: bytes | str) -> bytes:
    """Return the beginning of a file; nothing where its base64 is wrong."""
    if isinstance(content, bytes):
        return content[:_PEEKED]
    start = max(0, _start_of(content))
    try:
        return base64.b64decode(content[start : start + _PEEKED // 3 * 4])
    except (binascii.Error, ValueError):
        return b""


def _from_base64(text: str, field: str) -> bytes:
    start = _start_of(text)
    if start < 0:
        raise InvalidRequestError(
            f"{field}: a data URL must read data:image/png;base64,... (or another type)", field
        )
    parts: list[bytes] = []
    try:
        for at in range(start, len(text), _BASE64_STEP):
            if at > start and len(parts[-1]) != _BASE64_STEP // 4 * 3:
                raise ValueError("Excess data after padding")
            parts.append(binascii.a2b_base64(text[at : at + _BASE64_STEP], strict_mode=True))
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError(f"{field} is not base64: {error}", field) from None
    return b"".join(parts)
