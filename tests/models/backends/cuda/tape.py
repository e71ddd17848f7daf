"""Recordings without a device."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from models.nn.ragged import Ragged, Value


class Tape:
    """Records by keeping the function: repeating it writes to the same tensors, as a graph does."""

    def __init__(self) -> None:
        self.num_recorded = self.num_replayed = 0

    def record(self, run: Callable[[], Value]) -> tuple[Callable[[], None], Value]:
        output = run()
        self.num_recorded += 1

        def replay() -> None:
            content(output).copy_(content(run()))
            self.num_replayed += 1

        return replay, output


def content(value: Value) -> Tensor:
    return value.values if isinstance(value, Ragged) else value
