"""Writes one subnet so that others run it without this server: plain ONNX, and a public folder.

`write` makes the folder. What a family has beyond the ONNX file is in a module of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from models.backends.torch import TorchBackend
from models.core import Plan
from models.elastic import Elastic
from models.export import convolutional, headed, image, onnx_file, pruned, text
from models.export.parts import ExportError, Folder
from models.families.convnet import Convnet
from models.families.exits import Exits
from models.families.headed import Headed
from models.families.ladder import AXIS, Ladder
from models.families.pruned import Pruned
from models.families.slimmable import Slimmable
from models.nn.ragged import Value
from models.nn.static import is_static
from models.space import Subnet
from models.variants import choices_of, loaded

__all__ = ["TOLERANCE", "ExportError", "Facts", "write"]

FACTS, CARD = "export.json", "README.md"
TOLERANCE = 1e-4  # of the ONNX file's answers, each number


@dataclass(frozen=True)
class Facts:
    """What is known of a subnet, for its card.

    Attributes:
        version: Of the checkpoint.
        macs: For one input of the plan's shapes.
        scores: By task, what the table says.
    """

    version: str
    macs: int
    scores: Mapping[str, Mapping[str, Any]]


def write(
    model: Any, subnet: Subnet, out: Path, facts: Facts, tasks: Sequence[str] | None = None
) -> list[str]:
    """Write a subnet: an ONNX file, weights in a public layout where there is one, and a card.

    The ONNX file is run before this returns: its answers are those of the model within `TOLERANCE`.

    Args:
        model: As loaded, an `Elastic` that is an nn.Module.
        subnet: A value for every axis that the tasks need.
        out: Made if needed; must be empty.
        facts: For the card.
        tasks: What is answered; None for all.

    Returns:
        Remarks that a user should read: what a layout cannot say.

    Raises:
        ExportError: If the folder is not empty, the subnet needs weights that are built when a
            request needs them, or the ONNX file does not give the model's answers.
        ValueError: If the subnet or a task is not one of the model's.
    """
    if out.exists() and any(out.iterdir()):
        raise ExportError(f"{out} is not empty; allowed: an empty folder, or one that is not there")
    elastic: Elastic = model
    given = loaded(elastic.space)
    if choices_of(elastic.space, subnet) != tuple(given.values()):
        named = {axis: subnet[axis] for axis in given}
        raise ExportError(f"{named} needs weights of its own; allowed: {given}")
    plan = elastic.plan(subnet, elastic.inputs.plan_shapes(), tasks)
    out.mkdir(parents=True, exist_ok=True)
    folder = Folder(out)
    exported = onnx_file.export(plan, elastic.inputs)
    onnx_file.save(exported, out)
    _check(model, plan, exported, out)
    _write_layout(model, subnet, plan, folder)
    _describe(model, subnet, plan, exported, facts, folder)
    return folder.remarks


def _write_layout(model: nn.Module, subnet: Subnet, plan: Plan, folder: Folder) -> None:
    """Write the weights of a subnet as the family's writer does."""
    wrapped: Any = model.base if isinstance(model, Pruned) else model
    if isinstance(wrapped, Exits) and is_static(plan):
        text.write_static(wrapped, folder)
    elif isinstance(model, Pruned):
        pruned.write(
            model, subnet, folder, lambda base, own: _write_layout(base, own, plan, folder)
        )
    elif isinstance(model, Exits):
        text.write(model, subnet, folder)
    elif isinstance(model, Headed):
        headed.write(model, subnet, folder)
    elif isinstance(model, Ladder):
        member: Any = model.member(str(subnet[AXIS]))
        _write_layout(member, member.space.largest, plan, folder)
    elif isinstance(model, Slimmable):
        image.write(model, subnet, list(plan.answers), folder)
    elif isinstance(model, Convnet):
        convolutional.write(model, subnet, folder)
    else:
        folder.remark(
            f"{type(model).__name__}: there is no layout of safetensors for this family; the ONNX "
            "file has all weights"
        )


def _check(model: Any, plan: Plan, exported: onnx_file.File, out: Path) -> None:
    """Compare the file's answers with the model's; ExportError if they differ."""
    backend = TorchBackend()
    backend.prepare(model)
    for items in onnx_file.samples(model.inputs):
        batch: dict[str, Value] = model.inputs.batch(items)
        expected = backend.run(plan, batch)
        found = onnx_file.run(out, exported, batch)
        for task, name in exported.outputs.items():
            apart = float((found[name] - expected[task]).abs().max())
            if not apart <= TOLERANCE:
                raise ExportError(
                    f"{out / onnx_file.ONNX}: {name} is {apart:.2g} from the model's {task}; "
                    f"allowed: {TOLERANCE}"
                )


def _describe(
    model: Any,
    subnet: Subnet,
    plan: Plan,
    exported: onnx_file.File,
    facts: Facts,
    folder: Folder,
) -> None:
    """Write the card, and the same facts as JSON."""
    told: dict[str, Any] = {
        "model": model.name,
        "version": facts.version,
        "subnet": dict(subnet),
        "macs": facts.macs,
        "scores": {task: dict(score) for task, score in facts.scores.items()},
        "onnx": {"inputs": list(exported.inputs), "outputs": dict(exported.outputs)},
        "inputs": {name: slot.type.describe() for name, slot in model.inputs.items()},
        "tasks": {
            name: {"kind": task.kind, "labels": list(task.labels), "metric": task.metric}
            for name, task in model.tasks.items()
            if name in plan.answers
        },
        "layout": folder.layout,
        "remarks": folder.remarks,
    }
    (folder.path / FACTS).write_text(json.dumps(told, indent=1) + "\n")
    (folder.path / CARD).write_text(_card(told, folder, exported))


def _card(told: Mapping[str, Any], folder: Folder, exported: onnx_file.File) -> str:
    subnet = " ".join(f"{axis}={value}" for axis, value in told["subnet"].items())
    rows = [
        f"| {task} | {score['metric']} | {score['score']:.4f} | {score['stderr']:.4f} "
        f"| {score['n']} | {score['retention']:.4f} |"
        for task, score in told["scores"].items()
    ]
    remarks = [f"- {remark}" for remark in folder.remarks]
    lines = [
        f"# {told['model']}, one subnet",
        "",
        (
            f"Subnet `{subnet}`: {told['macs']:,} MACs for one input of the greatest size. "
            f"Exported from version {told['version']}. The same facts are in `{FACTS}`."
        ),
        "",
        "| task | metric | score | standard error | n | retention |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        "Scores are of data that trained nothing, as the checkpoint's table has them.",
        "",
        f"## `{onnx_file.ONNX}`",
        "",
        *(f"- takes `{name}`: {what}" for name, what in exported.inputs.items()),
        *(f"- gives `{name}` for `{task}`" for task, name in exported.outputs.items()),
        "",
        *folder.card,
        *(["", "## Remarks", "", *remarks] if remarks else []),
    ]
    return "\n".join(lines).rstrip() + "\n"
