from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.core import Step
from models.nn.ragged import Ragged, Value
from models.run.chain import Chain, Sample, bound_to, function_key, shared_layouts


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
    first = Step("", torch.exp, ("x",))
    chain = Chain([first, Step("", run, (first,))])
    for one in (key, chain.key([x])):
        assert bound_to(model)(one)
        assert not bound_to(other)(one)


def add(*values: Tensor) -> Tensor:
    return torch.stack(values).sum(0)


def test_a_chain_names_what_it_takes_once_and_in_the_order_of_use() -> None:
    early = Step("early", add, ("a",))
    first = Step("first", add, (early, "b"))
    second = Step("second", add, (first, early, first, "c", "b"))
    chain = Chain([first, second])
    assert chain.externals == (early.identity, "b", "c")
    assert chain.sources == ((-1, -2), (0, -1, 0, -3, -2))
    inputs = [torch.tensor([float(10**i)]) for i in range(3)]
    assert float(chain.run(inputs)) == 1 + 10 + 1 + 1 + 10 + 100 + 10  # type: ignore[arg-type]


def test_a_chain_run_step_by_step_gives_each_step_its_own_operands() -> None:
    first = Step("first", add, ("a", "b"))
    second = Step("second", add, (first, "c", first))
    chain, seen = Chain([first, second]), []

    def run(link: Chain, own: Sequence[Value]) -> Value:
        seen.append((link.externals, [float(value) for value in own if isinstance(value, Tensor)]))
        return link.run(own)

    inputs = [torch.tensor([value]) for value in (1.0, 2.0, 4.0)]
    assert chain.run_each(inputs, run) == chain.run(inputs)
    assert seen == [(("a", "b"), [1.0, 2.0]), ((first.identity, "c"), [3.0, 4.0])]


def test_chains_whose_inputs_share_other_layouts_are_not_the_same() -> None:
    step = Step("step", add, ("a", "b"))
    x = Ragged.pack([torch.ones(2, 3), torch.ones(1, 3)])
    y = Ragged.pack([torch.ones(2, 3), torch.ones(1, 3)])
    again = Chain([Step("other name", add, ("c", "d"))])
    assert Chain([step]).key([x, y]) == again.key([y, x])
    assert Chain([step]).key([x, y]) != again.key([x, x])
    assert shared_layouts([x, torch.ones(2), y, x]) == (0, -1, 1, 0)


def test_made_up_batches_keep_which_inputs_share_a_layout_and_differ_in_all_other_sizes() -> None:
    x = Ragged.pack([torch.ones(2, 3), torch.zeros(1, 3)])
    y = Ragged.pack([torch.ones(4, 5)] * 2)
    row = torch.arange(2.0)[:, None]
    sample = Sample([x, y, row, x.replace(x.values + 1)])
    first, second, third, last = sample.batch((3, 5, 4))
    assert isinstance(first, Ragged)
    assert isinstance(second, Ragged)
    assert isinstance(third, Tensor)
    assert isinstance(last, Ragged)
    assert first.layout is last.layout
    assert (first.layout.lengths, second.layout.lengths) == ((3, 5, 4), (6, 5, 4))
    assert [len(part) for part in (first.values, second.values, last.values)] == [12, 15, 12]
    assert first.values[:4].tolist() == [[1.0] * 3, [1.0] * 3, [0.0] * 3, [1.0] * 3]
    assert third.flatten().tolist() == [0.0, 1.0, 0.0]
