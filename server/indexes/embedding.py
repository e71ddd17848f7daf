"""Vectors of texts by one subnet, some at a time, behind all that somebody waits for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from search.find import Selection
from server.admitted import Answer
from server.inputs.sources import Passage
from server.question import Question
from server.ranking import task_of
from server.served import Served
from server.service import Service

CHUNK = 64  # texts that are inside the engine at once


def passage_of(text: str) -> Passage:
    """Return a text of an index as an input; what is too long is cut at its end."""
    return Passage("documents", text, truncate="right")


async def embedded(
    service: Service, served: Served, question: Question, passages: Sequence[Passage]
) -> tuple[Tensor, Selection, int]:
    """Return the vectors of texts, their subnet and what they took, some texts at a time."""
    parts, flops = [], 0
    answer: Answer | None = None
    for first in range(0, len(passages), CHUNK):
        items = served.named("text", passages[first : first + CHUNK])
        fixed = question if answer is None else of_subnet(question, answer.selection)
        answer = await service.infer(served, fixed, items)
        task = task_of(served, answer.selection, "embedding")
        parts += [outputs[task] for outputs in answer.outputs]
        flops += answer.flops
    assert answer is not None, "there are texts"
    return torch.stack(parts).float().cpu(), answer.selection, flops


def of_subnet(question: Question, selection: Selection) -> Question:
    """Return a question that only one subnet answers."""
    return replace(question, fixed=dict(selection.subnet))
