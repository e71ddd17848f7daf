"""Classes from another model's vectors, by a head that labels teach and one that a teacher does.

Each exit of the wrapped model has both heads. *Alpha* is the teacher's share in the probabilities
that they give together; at 0 and 1 the other head is not run. It costs next to nothing, so no
budget decides it: the table has the score of each exit and width under each alpha, and the search
takes the best.

Axes: ``alpha``, and those of the wrapped model.

Source: Kang et al. 2025, Dual-Head Optimization, arXiv 2505.07675, for two heads whose
probabilities are mixed when they are asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import ConfigDict
from torch import Tensor, nn

from models.core import Cost, Plan, Shapes, Step
from models.families import Family
from models.space import Axis, Space, Subnet
from models.tasks import Task, wanted_tasks
from models.wrapped import Wrapped

AXIS = "alpha"
LABELS, TEACHER = 0.0, 1.0


@dataclass(frozen=True)
class DualConfig:
    """Everything that fixes the architecture; kept in the checkpoint's manifest.

    Attributes:
        family: Of the wrapped model, which gives vectors.
        model: Its configuration, as in the manifest of its own checkpoint.
        task: Name of what is answered.
        labels: Names of the classes, in logit order.
        exits: The wrapped model's axis each of whose values has heads of its own.
        alphas: Shares of the teacher's head: 0 and 1, which run one head, then shares between.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    family: str
    model: Mapping[str, Any]
    task: str
    labels: tuple[str, ...]
    exits: str
    alphas: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what cannot be built; ValueError naming the field and what is allowed."""
        between = self.alphas[2:]
        is_sound = self.alphas[:2] == (LABELS, TEACHER) and all(0 < one < 1 for one in between)
        if not is_sound or len(set(between)) < len(between):
            raise ValueError(
                f"alphas={list(self.alphas)} must be 0, 1 and then shares between, each once"
            )


class DualHeads(Wrapped):
    """The family as an `Elastic` model; see `models.elastic.Elastic` for the contract."""

    config: DualConfig

    def __init__(self, name: str, config: DualConfig) -> None:
        """Build the wrapped model and the heads.

        Raises:
            ValueError: If the family is unknown, or the model has variants of its own, does not
                give vectors, or has no such axis.
        """
        super().__init__(name, config)
        self.check_one_set_of_weights()
        if any(task.kind != "embedding" for task in self.base.tasks.values()):
            raise ValueError(f"model: heads read vectors, which {config.family!r} does not give")
        axes: dict[str, Axis] = {axis.name: axis for axis in self.base.space.axes}
        if config.exits not in axes:
            raise ValueError(f"exits={config.exits!r} must be one of the axes {list(axes)}")
        sizes = [axis for axis in axes.values() if axis.kind == "output"]
        if len(sizes) != 1:
            raise ValueError(f"model: {len(sizes)} axes say how long a vector is; one must")
        self._exits, self._size = axes[config.exits], sizes[0].name
        width, classes = int(sizes[0].values[-1]), len(config.labels)
        self.heads = nn.ModuleList(TwoHeads(width, classes) for _ in self._exits.values)

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """The classes."""
        config = self.config
        return {config.task: Task(config.task, "classes", config.labels)}

    @cached_property
    def space(self) -> Space:
        """The teacher's share, and the wrapped model's axes."""
        space: Space = self.base.space
        alpha = Axis(AXIS, self.config.alphas)
        return Space((alpha, *space.axes), lambda subnet: space.has(self.of_base(subnet)))

    def plan(self, subnet: Subnet, shapes: Shapes, tasks: Collection[str] | None = None) -> Plan:
        """Return the wrapped model's plan, whose last step goes on to the heads.

        One step, so that a deeper exit's plan still has all but the last step of a shallower one's.
        """
        subnet, wanted = self.space.check(subnet), wanted_tasks(self.tasks, tasks)
        whole: Plan = self.base.plan(self.of_base(subnet), shapes, list(self.base.tasks)[:1])
        (vector,) = whole.answers.values()
        alpha, heads = float(subnet[AXIS]), self.heads_of(subnet)
        answer = Step(
            (vector.key, AXIS, alpha),
            partial(_answer, vector.run, heads, alpha),
            vector.takes,
            vector.cost + heads.cost(alpha, int(subnet[self._size])),
            tolerance=vector.tolerance,
        )
        return Plan(dict.fromkeys(wanted, answer))

    def heads_of(self, subnet: Mapping[str, Any]) -> TwoHeads:
        """Return the heads of a subnet's exit."""
        found = self.heads[self._exits.index(subnet[self._exits.name])]
        assert isinstance(found, TwoHeads)
        return found


class TwoHeads(nn.Module):
    """A linear map that labels teach, and one that a teacher does."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.labels = nn.Linear(inputs, classes)
        self.teacher = nn.Linear(inputs, classes)

    def forward(self, alpha: float, vectors: Tensor) -> Tensor:
        """Map vectors, perhaps their leading dimensions, to logits, shape [rows, classes].

        Of one head they are its own; of both they are logarithms of the mixed probabilities.
        """
        if alpha == LABELS:
            return _linear(self.labels, vectors)
        if alpha == TEACHER:
            return _linear(self.teacher, vectors)
        both = torch.stack(
            (
                math.log(1 - alpha) + F.log_softmax(_linear(self.labels, vectors), 1),
                math.log(alpha) + F.log_softmax(_linear(self.teacher, vectors), 1),
            )
        )
        return both.logsumexp(0)

    def cost(self, alpha: float, inputs: int) -> Cost:
        """Return the cost of a row, for vectors of some dimensions."""
        heads = 1 if alpha in (LABELS, TEACHER) else 2
        classes = self.labels.out_features
        return Cost(heads * inputs * classes, 4 * heads * (inputs + 1) * classes)


def _linear(head: nn.Linear, vectors: Tensor) -> Tensor:
    return F.linear(vectors, head.weight[:, : vectors.shape[1]], head.bias)


def _answer(vectors: Callable[..., Tensor], heads: TwoHeads, alpha: float, *taken: Any) -> Tensor:
    """Return logits from what the wrapped model's last step takes."""
    found: Tensor = heads(alpha, vectors(*taken))
    return found


FAMILY = Family(DualConfig, DualHeads)
