"""What the client sends to have texts put into classes that texts name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from rheostat.asked import Budget
from rheostat.bodies import given, json_body, reader, texts_of
from rheostat.call import Call
from rheostat.classify_answers import ClassifyAnswer

Side = Literal["left", "right"]
_PATH = "/v1/classify"


def classify(
    texts: str | Sequence[str],
    labels: Sequence[str],
    *,
    model: str | None = None,
    top_k: int | None = None,
    preferences: Mapping[str, float] | None = None,
    budget: Budget | None = None,
    priority: int | None = None,
    prompt: str | None = None,
    label_prompt: str | None = None,
    truncate: Side | None = None,
    adapter: str | None = None,
) -> Call[ClassifyAnswer]:
    """Put labels in order of their nearness to each text; the server keeps the labels' vectors.

    Args:
        texts: One or several.
        labels: Texts that name or describe the classes.
        model: Its name; None for the only one that takes texts.
        top_k: Return only so many labels; None for all.
        preferences: Weight of each measured task; None for equal weights.
        budget: For each text; labels are embedded whole. None for the largest subnet.
        priority: 0 is the highest.
        prompt: Template for texts.
        label_prompt: Template for labels.
        truncate: Which end to cut of a text that is too long; None to refuse it.
        adapter: As in `rheostat.calls.infer`.

    Raises:
        TypeError: If the labels are one text.
    """
    asked = given(
        model=model,
        input=texts,
        labels=texts_of("labels", labels),
        top_k=top_k,
        preferences=preferences,
        budget=budget,
        priority=priority,
        prompt=prompt,
        label_prompt=label_prompt,
        truncate=truncate,
        adapter=adapter,
    )
    return Call("POST", _PATH, reader(ClassifyAnswer), json_body(asked))


def classify_stored(
    texts: str | Sequence[str],
    *,
    index: str,
    top_k: int | None = None,
    preferences: Mapping[str, float] | None = None,
    budget: Budget | None = None,
    priority: int | None = None,
    prompt: str | None = None,
    truncate: Side | None = None,
) -> Call[ClassifyAnswer]:
    """Put texts into classes that an index holds: its ids name them, its documents describe them.

    Args:
        texts: As in `classify`.
        index: Its name.
        top_k: As in `classify`.
        preferences: Likewise.
        budget: Likewise.
        priority: Likewise.
        prompt: Likewise.
        truncate: Likewise.
    """
    asked = given(
        input=texts,
        index=index,
        top_k=top_k,
        preferences=preferences,
        budget=budget,
        priority=priority,
        prompt=prompt,
        truncate=truncate,
    )
    return Call("POST", _PATH, reader(ClassifyAnswer), json_body(asked))
