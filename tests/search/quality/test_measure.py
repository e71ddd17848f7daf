from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.backends.torch import TorchBackend
from models.core import Plan, Shapes, Step
from models.inputs import Inputs
from models.inputs.tensor import TensorInput
from models.space import Axis, Space, Subnet
from models.tasks import Metric, Task
from search.quality.measure import measure


class Sums(nn.Module):
    """Answers with the sum of some of the numbers that it is given, less the more of them."""

    def __init__(self, metric: Metric = "rmse") -> None:
        super().__init__()
        self.name = "sums"
        self.inputs = Inputs.of("x", TensorInput((4,)))
        self.tasks: Mapping[str, Task] = {
            "sum": Task("sum", "score", metric=metric),
            "sign": Task("sign", "classes", ("below", "above")),
        }
        self.space = Space((Axis("used", (1, 2, 4)), Axis("scale", (0.5, 1.0), task="sum")))

    def plan(self, subnet: Subnet, shapes: Shapes, tasks: Collection[str] | None = None) -> Plan:
        used = int(subnet["used"])

        def cut(x: Tensor) -> Tensor:
            return x[:, :used].sum(1)

        def scaled(total: Tensor) -> Tensor:
            return total * float(subnet["scale"])

        def sign(total: Tensor) -> Tensor:
            return torch.stack([-total, total], dim=1)

        total = Step(("sum", used), cut, ("x",))
        steps = {
            "sum": lambda: Step(("scaled", subnet["scale"]), scaled, (total,)),
            "sign": lambda: Step(("sign",), sign, (total,)),
        }
        return Plan({task: steps[task]() for task in tasks or self.tasks})


@pytest.fixture(scope="module")
def examples() -> dict[str, tuple[Tensor, Tensor]]:
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    return {"sum": (x, x.sum(1)), "sign": (x, (x.sum(1) > 0).long())}


def test_errors_are_root_mean_squares_with_their_standard_errors(
    examples: dict[str, tuple[Tensor, Tensor]],
) -> None:
    model = Sums()
    table = measure(model, TorchBackend(), examples)
    cells = table.cells["sum"]
    x = examples["sum"][0].double().numpy()
    for r, row in enumerate(table.rows):
        for c, column in enumerate(cells.columns):
            found = x[:, : int(row["used"])].sum(1) * float(column["scale"])
            squares = (found - x.sum(1)) ** 2
            value = np.sqrt(squares.mean())
            assert cells.value[r, c] == pytest.approx(value, abs=1e-6)
            if value > 1e-3:
                stderr = squares.std(ddof=1) / np.sqrt(200) / (2 * value)
                assert cells.stderr[r, c] == pytest.approx(stderr, rel=1e-4)
    assert cells.lower_is_better
    assert not table.cells["sign"].lower_is_better


def test_expected_errors_fall_as_width_grows_and_are_never_better_than_the_best_seen(
    examples: dict[str, tuple[Tensor, Tensor]],
) -> None:
    table = measure(Sums(), TorchBackend(), examples)
    cells = table.cells["sum"]
    assert cells.smoothed is not None
    assert (np.diff(cells.smoothed, axis=0) <= 1e-9).all()
    assert cells.smoothed.min() >= cells.value.min() - 1e-9
    accuracy = table.cells["sign"].expected
    assert (accuracy <= 1).all()
    assert accuracy[-1, -1] > accuracy[0, 0]


def test_another_metric_or_truth_of_another_shape_is_refused(
    examples: dict[str, tuple[Tensor, Tensor]],
) -> None:
    x, total = examples["sum"]
    wrong = {**examples, "sum": (x, total[:, None])}
    with pytest.raises(ValueError, match=r"answers of shape \[200\], truth of \[200, 1\]"):
        measure(Sums(), TorchBackend(), wrong)
    with pytest.raises(ValueError, match="task 'sum': metric='ndcg@10' must be one of"):
        measure(Sums("ndcg@10"), TorchBackend(), examples)
