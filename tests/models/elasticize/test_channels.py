"""Channels of convolutional networks: their order, what they are worth, and how many are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.elasticize.allocation import Costs, allocate
from models.elasticize.channels import groups_of, importance, ranked, reading_weight, with_cuts
from models.families.convnet import Convnet, NotEstimatedError
from models.formats.image_classifiers import KEEP, read
from models.inputs.image import ImageInput
from models.space import Subnet
from tests.models.formats.plain_networks import Network, Plain, resnet, torchvision_mobilenet
from tests.walking import answers_of

NETWORKS: dict[str, Plain] = {
    "mobilenet": torchvision_mobilenet,
    "resnet": resnet((2, 2, 2, 2), False),
    "bottlenecks": resnet((1, 1, 1, 1), True),
}
CUTS = {"mobilenet": 17, "resnet": 8, "bottlenecks": 8}  # the blocks' insides, and the last


def images(count: int = 6) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def model_of(folder: Path, plain: Plain) -> Convnet:
    net = Network()
    plain(net, images(1))
    save_file(net.tensors, folder / "net.safetensors")
    return read(folder / "net.safetensors", "net", image=ImageInput(32, 32, (0.5,) * 3, (0.5,) * 3))


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Convnet]:
    return request.param, model_of(tmp_path, NETWORKS[request.param])


def answers(model: Convnet, subnet: Subnet | None = None) -> Tensor:
    plan = model.plan(subnet or model.space.largest, model.inputs.plan_shapes())
    return answers_of(plan, {"image": images()})["label"]


def test_an_order_of_channels_changes_no_answer(network: tuple[str, Convnet]) -> None:
    name, model = network
    groups = groups_of(model)
    assert len(groups) == CUTS[name]
    generator = torch.Generator().manual_seed(0)
    worth = importance("random", model, groups, [], generator)
    made = ranked(model, groups, worth)
    torch.testing.assert_close(answers(made), answers(model), atol=1e-4, rtol=1e-4)
    # Rows of a reader may have an order of their own.
    before, after = (reading_weight(one, groups[0]).pow(2).sum(0) for one in (model, made))
    torch.testing.assert_close(after, before[worth[0].argsort(descending=True)])
    assert not torch.allclose(after, before)


def test_a_cut_that_is_not_fitted_is_the_whole_network_without_what_reads_the_other_channels(
    network: tuple[str, Convnet],
) -> None:
    _, model = network
    groups = groups_of(model)
    half = tuple(max(1, group.size // 2) for group in groups)
    made = with_cuts(model, KEEP, groups, {0.5: half})
    torch.testing.assert_close(answers(made), answers(model), atol=1e-5, rtol=1e-5)
    costs = Costs(model, groups)
    shapes, cut = model.inputs.plan_shapes(), Subnet({KEEP: 0.5})
    assert made.plan(cut, shapes).cost.macs == costs.of(half)
    whole = tuple(group.size for group in groups)
    assert made.plan(made.space.largest, shapes).cost.macs == costs.of(whole)
    found = answers(made, cut)
    for group, size in zip(groups, half, strict=True):
        if group.reader is None:
            model.head.classifier.weight[:, size:] = 0
        else:
            (kernel,) = model.block(group.block).unit(group.reader).kernels.values()
            kernel[:, size:] = 0
    torch.testing.assert_close(found, answers(model), atol=1e-4, rtol=1e-4)


def test_a_cut_without_statistics_is_not_run(tmp_path: Path) -> None:
    model = model_of(tmp_path, NETWORKS["resnet"])
    groups = groups_of(model)
    whole = tuple(group.size for group in groups)
    made = with_cuts(model, KEEP, groups, {0.5: whole}, fitted=False)
    with pytest.raises(NotEstimatedError, match="this subnet has no statistics yet"):
        answers(made, Subnet({KEEP: 0.5}))


def test_what_a_channel_adds_counts_without_its_mean(tmp_path: Path) -> None:
    model = model_of(tmp_path, NETWORKS["bottlenecks"])
    groups = groups_of(model)
    block, u = groups[1].block, groups[1].unit
    unit = model.block(block).unit(u)
    with torch.no_grad():
        unit.affine[0, 0, 3], unit.affine[0, 1, 3] = 0.0, 5.0  # a constant, read by large weights
        (kernel,) = model.block(block).unit(groups[1].reader or 0).kernels.values()
        kernel[:, 3] = 100
    generator = torch.Generator()
    worth = importance("contribution", model, groups, [images()], generator)
    assert worth[1][3] < 1e-6 < worth[1].sort().values[1]
    assert importance("magnitude", model, groups, [], generator)[1].argmax() == 3


def test_contributions_are_the_variance_that_readers_see(tmp_path: Path) -> None:
    """Of a reader of one place: the mean square of what the channel adds, less its mean."""
    model = model_of(tmp_path, NETWORKS["bottlenecks"])
    groups = groups_of(model)
    (i,) = [i for i, group in enumerate(groups) if group.block == 2 and group.unit == 1]
    worth = importance("contribution", model, groups, [images()], torch.Generator())[i]
    x = images()
    for one in model.path(model.space.largest)[:2]:
        x = model.block(one.block)(one.choices, one.number, x)
    block, choices = model.block(2), model.path(model.space.largest)[2].choices
    for u in (0, 1):
        unit = block.unit(u)
        x = unit.activate(choices[u], unit.normalise(0, block.eps, unit.convolve(choices[u], x)))
    (kernel,) = block.unit(2).kernels.values()
    for c in (0, 3):
        added = torch.einsum("o,nhw->onhw", kernel[:, c, 0, 0], x[:, c])
        variance = (added - added.mean((1, 2, 3), keepdim=True)).pow(2).mean((1, 2, 3)).sum()
        assert float(worth[c]) == pytest.approx(float(variance), rel=1e-3)


@pytest.mark.parametrize("part", [0.9, 0.5, 0.1])
def test_a_budget_is_met_by_what_loses_least(network: tuple[str, Convnet], part: float) -> None:
    _, model = network
    groups = groups_of(model)
    costs = Costs(model, groups)
    whole = costs.of(tuple(group.size for group in groups))
    least = costs.of(tuple((group.size - 1) % group.chunk + 1 for group in groups)) / whole
    keep = least + part * (1 - least)
    losses = [torch.linspace(1, 0.1, group.size) for group in groups]
    even = [1.0] * len(groups)
    sizes = allocate(costs, groups, losses, even, keep)
    assert costs.of(sizes) <= keep * whole
    assert all(1 <= size <= group.size for size, group in zip(sizes, groups, strict=True))
    heavy = [100.0 if i == 0 else 1.0 for i in range(len(groups))]
    assert allocate(costs, groups, losses, heavy, keep)[0] >= sizes[0]
    with pytest.raises(ValueError, match=f"is too small: at least {least:.3f} is left"):
        allocate(costs, groups, losses, even, 0.99 * least)


def test_a_block_is_left_out_where_that_loses_least(tmp_path: Path) -> None:
    model = model_of(tmp_path, NETWORKS["mobilenet"])
    groups = groups_of(model)
    costs, even = Costs(model, groups), [1.0] * len(groups)
    losses = [torch.linspace(1, 0.1, group.size) for group in groups]
    place = next(i for i, group in enumerate(groups) if group.alone)
    left_out = [0.0 if i == place else 10.0 for i in range(len(groups))]
    sizes = allocate(costs, groups, losses, even, 0.95, left_out)
    assert sizes[place] == 0
    assert all(sizes[i] for i in range(len(groups)) if i != place)
    assert 0 not in allocate(costs, groups, losses, even, 0.95)
    made = with_cuts(model, KEEP, groups, {0.5: sizes})
    plan = made.plan(Subnet({KEEP: 0.5}), made.inputs.plan_shapes())
    assert plan.cost.macs == costs.of(sizes)
    blocks = [one.block for one in made.path(Subnet({KEEP: 0.5}))]
    assert blocks == [b for b in range(len(model.blocks)) if b != groups[place].block]
