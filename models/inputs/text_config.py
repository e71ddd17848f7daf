"""What fixes how text becomes tokens, beside the tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import ConfigDict


@dataclass(frozen=True)
class TextConfig:
    """How text becomes tokens; kept in the checkpoint's manifest.

    Attributes:
        max_length: Most tokens of one input, special tokens included.
        prompts: Templates by name, each with ``{text}`` where the text goes.
        default_prompt: Name of the one used where a request names none; None for the bare text.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    max_length: int
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None

    def __post_init__(self) -> None:
        """Refuse what could not be followed.

        Raises:
            ValueError: Naming the field, its value and what is allowed.
        """
        if self.max_length < 3:
            raise ValueError(f"max_length={self.max_length} must be 3 or more")
        for name, template in self.prompts.items():
            if template.count("{text}") != 1:
                raise ValueError(f"prompts.{name}={template!r} must contain {{text}} once")
        if self.default_prompt is not None and self.default_prompt not in self.prompts:
            raise ValueError(
                f"default_prompt={self.default_prompt!r} is not one of {list(self.prompts)}"
            )
