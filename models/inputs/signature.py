"""Which inputs a model takes, without what is needed to read them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Signature:
    """Names, kinds and which of them every item must have.

    Attributes:
        kinds: ``image``, ``text``, ``tensor`` or ``adapter``, by name.
        required: Names.
    """

    kinds: Mapping[str, str]
    required: frozenset[str]

    def fits(self, kind: str | None, names: Collection[str] | None) -> bool:
        """Return whether a request may mean the model.

        Args:
            kind: There must be an input of it; None for any.
            names: An item may have just these inputs; None for any.
        """
        if kind is not None and kind not in self.kinds.values():
            return False
        return names is None or self.required <= set(names) <= self.kinds.keys()
