from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.core import Cost, Step
from models.run.chain import Chain, bound_to, function_key


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.table: Tensor
        self.register_buffer("table", torch.ones(2))

    def twice(self, x: Tensor) -> Tensor:
        return 2 * x


def inner_function(model: Model) -> Callable[[Tensor], Tensor]:
    return lambda x: model.inner(x)


FORMS: dict[str, Callable[[Model], Callable[..., Tensor]]] = {
    "module": lambda model: model.inner,
    "method": lambda model: model.twice,
    "partial of a method": lambda model: partial(model.twice),
    "partial of a module": lambda model: partial(model.inner, torch.ones(1, 2)),
    "parameter": lambda model: partial(F.linear, weight=model.inner.weight),
    "view of a parameter": lambda model: partial(F.linear, weight=model.inner.weight[:1]),
    "buffer in a list": lambda model: partial(torch.cat, [model.table]),
    "nested partial": lambda model: partial(
        partial(F.linear, bias=None), weight=model.inner.weight
    ),
    "inner function": inner_function,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_a_function_is_known_by_the_model_it_is_bound_to(
    form: Callable[[Model], Callable[..., Tensor]],
) -> None:
    model, other = Model(), Model()
    run, x = form(model), torch.ones(1, 2)
    key = function_key(run, [x])
    chain = Chain([Step("", torch.exp, Cost(), None, ("x",), "y"), _step(run)])
    for one in (key, chain.key([x])):
        assert bound_to(model)(one)
        assert not bound_to(other)(one)


def _step(run: Callable[..., Tensor]) -> Step:
    return Step("", run, Cost(), None, ("y",), "z")
