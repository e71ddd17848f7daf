"""From what a client sent to the model's input, off the event loop where it takes a while."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.inputs import ImageInput, InvalidInputError, ModelInput
from models.text import Side, TextInput
from server.errors import InvalidRequestError

T = TypeVar("T")
R = TypeVar("R")

_CHARACTERS_PER_TOKEN = 4  # of English in WordPiece, about
_SHORT = 128  # tokens of a request that are read sooner than a thread is woken and heard, 0.1 ms


class Source(Protocol):
    """One input of a request, as the client sent it."""

    @property
    def num_tokens(self) -> int:
        """About how many tokens it will have, before it is read; 0 where inputs have no length."""

    def decode(self, model_input: ModelInput) -> Tensor:
        """Return the model's input.

        Raises:
            InvalidRequestError: Naming the field, if it is none.
        """


@dataclass(frozen=True, slots=True)
class Upload:
    """One encoded image of a request.

    Attributes:
        field: Where in the request it was, for errors.
        content: The file's bytes; or text: base64, bare or as a data URL.
    """

    field: str
    content: bytes | str

    @property
    def num_tokens(self) -> int:
        """0: images have no length."""
        return 0

    def decode(self, model_input: ModelInput) -> Tensor:
        """Decode the image; InvalidRequestError if it is not base64 where it should be, or none."""
        if not isinstance(model_input, ImageInput):
            raise InvalidRequestError(
                f"{self.field}: this model takes text, not images", self.field
            )
        content = self.content
        if isinstance(content, str):
            content = _from_base64(content, self.field)
        try:
            return model_input.decode(content)
        except InvalidInputError as error:
            raise InvalidRequestError(f"{self.field}: {error}", self.field) from None


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

    def decode(self, model_input: ModelInput) -> Tensor:
        """Tokenise the text; InvalidRequestError if it is empty, too long or not of the model."""
        if not isinstance(model_input, TextInput):
            raise InvalidRequestError(
                f"{self.field}: this model takes images, not text", self.field
            )
        try:
            if isinstance(self.content, str):
                return model_input.encode(self.content, self.prompt, self.truncate, self.max_tokens)
            return model_input.check_ids(self.content, self.truncate, self.max_tokens)
        except InvalidInputError as error:
            raise InvalidRequestError(f"{self.field}: {error}", self.field) from None


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

    def decode(self, model_input: ModelInput) -> Tensor:
        """Fit and normalise pixels, or check what is normalised; InvalidRequestError if wrong."""
        if not isinstance(model_input, ImageInput):
            raise InvalidRequestError(
                f"{self.field}: this model takes text, not images", self.field
            )
        try:
            if self.values.dtype == np.uint8:
                return model_input.from_pixels(self.values)
            return model_input.check_normalised(self.values)
        except InvalidInputError as error:
            raise InvalidRequestError(f"{self.field}: {error}", self.field) from None


@dataclass(frozen=True, slots=True)
class Unread:
    """One input whose content is only read once there is room for it.

    Attributes:
        num_tokens: About how many tokens it will have; 0 where inputs have no length.
        read: Returns the input; InvalidRequestError if there is none.
    """

    num_tokens: int
    read: Callable[[], Source]

    def decode(self, model_input: ModelInput) -> Tensor:
        """Read and decode the input; InvalidRequestError as reading and decoding."""
        return self.read().decode(model_input)


class Decoder:
    """A bounded pool of threads. What waits for it is bounded by admission."""

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")

    async def decode(self, sources: Sequence[Source], model_input: ModelInput) -> list[Tensor]:
        """Decode the inputs of one request.

        Returns:
            One tensor per input, in order.

        Raises:
            InvalidRequestError: Naming the first input that is none.
        """
        lengths = [source.num_tokens for source in sources]
        if all(lengths) and sum(lengths) <= _SHORT:
            return [source.decode(model_input) for source in sources]
        return await self.map(partial(_decoded, model_input), sources)

    async def map(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Call a function on everything a request has of something, each thread on a share.

        Returns:
            The results, in order.

        Raises:
            Exception: Whatever the function raises on the first item that it fails on.
        """
        loop = asyncio.get_running_loop()
        share = max(1, -(-len(items) // self.num_threads))
        jobs = [
            # In a context of its own each, so that what is logged names the request.
            loop.run_in_executor(
                self._pool, copy_context().run, _call_all, function, items[start : start + share]
            )
            for start in range(0, len(items), share)
        ]
        # Wait for all, so that the same request always names the same item.
        results = await asyncio.gather(*jobs, return_exceptions=True)
        done: list[R] = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            done.extend(result)
        return done

    def close(self) -> None:
        """Stop the threads once they are idle."""
        self._pool.shutdown()


def _decoded(model_input: ModelInput, source: Source) -> Tensor:
    return source.decode(model_input)


def _call_all(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    return [function(item) for item in items]


def _from_base64(text: str, field: str) -> bytes:
    if text.startswith("data:"):
        header, comma, text = text.partition(",")
        if not comma or not header.endswith(";base64"):
            raise InvalidRequestError(
                f"{field}: a data URL must read data:image/png;base64,... (or another type)", field
            )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError(f"{field} is not base64: {error}", field) from None
