"""One request of the client, and how its answer is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx

from rheostat.errors import invalid_answer

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Call(Generic[T_co]):
    """A request, and how to read its answer.

    Attributes:
        method: Of HTTP.
        path: From the server's root.
        parse: Reads the response; raises ValueError if it cannot.
        body: What httpx takes: ``content`` and ``headers``, or ``files``.
    """

    method: str
    path: str
    parse: Callable[[httpx.Response], T_co]
    body: Mapping[str, Any]

    def read(self, response: httpx.Response) -> T_co:
        """Return what a success says.

        Raises:
            InvalidAnswerError: If it says nothing that this call could be answered with.
        """
        try:
            return self.parse(response)
        except ValueError as fault:
            raise invalid_answer(response, fault) from None
