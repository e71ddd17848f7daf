"""What reads the channels that are kept, fitted to the whole network's sums."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.elasticize.channel_refit import ChannelRefit, observe, read_by
from models.elasticize.channels import groups_of, with_cuts
from models.families.convnet import Convnet
from models.formats.image_classifiers import KEEP
from models.nn.blocks import BlockConfig, SizeTable, UnitChoice, UnitConfig
from models.nn.conv_unit import ConvUnit
from models.space import Subnet
from models.train.statistics import estimated
from tests.models.elasticize.test_channels import NETWORKS, answers, images, model_of

CUT = Subnet({KEEP: 0.5})


def halved(model: Convnet) -> Convnet:
    groups = groups_of(model)
    return with_cuts(model, KEEP, groups, {0.5: tuple(max(1, g.size // 2) for g in groups)})


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fitted_cut_gives_what_the_whole_network_does_more_nearly(
    name: str, tmp_path: Path
) -> None:
    model = model_of(tmp_path, NETWORKS[name])
    groups = groups_of(model)
    sizes = tuple(g.size if g.reader is None else max(1, 3 * g.size // 4) for g in groups)
    made = with_cuts(model, KEEP, groups, {0.5: sizes})
    before = (answers(made, CUT) - answers(model)).pow(2).mean()
    ChannelRefit(made, observe(model, made, [images()[:4], images()[4:]])).fit(CUT)
    torch.testing.assert_close(answers(made), answers(model), atol=1e-5, rtol=1e-5)
    after = (answers(made, CUT) - answers(model)).pow(2).mean()
    assert float(after) < 0.5 * float(before)


def test_weights_are_the_ridge_regression_of_what_the_cut_reads_onto_the_whole_sum(
    tmp_path: Path,
) -> None:
    """Of a residual block behind others that were cut, against a plain solution."""
    model = model_of(tmp_path, NETWORKS["resnet"])
    made = halved(model)
    ChannelRefit(made, observe(model, made, [images()]), ridge=0.2).fit(CUT)
    of_cut, of_whole = made.path(CUT), model.path(model.space.largest)
    x, aim = images(), images()
    for own, other in zip(of_cut[:2], of_whole[:2], strict=True):
        x = made.block(own.block)(own.choices, own.number, x)
        aim = model.block(other.block)(other.choices, other.number, aim)
    one, other = of_cut[2], of_whole[2]
    block, whole = made.block(one.block), model.block(other.block)
    y = F.relu(block.totals(one.choices, one.number)(0, x))
    total = whole.totals(other.choices, other.number)
    z = total(1, F.relu(total(0, aim)))
    target = z + aim - x
    rows = F.unfold(y, 3, padding=1).transpose(1, 2).flatten(0, 1).double()
    target = target.flatten(2).transpose(1, 2).flatten(0, 1).double()
    rows_mean, target_mean = rows.mean(0), target.mean(0)
    centred = rows - rows_mean
    prior = whole.unit(1).folded(3, 0, whole.eps)[0][:, : y.shape[1]].flatten(1).double()
    scale = (0.2 * centred.pow(2).sum(0).mean()).sqrt()
    left = torch.cat([centred, scale * torch.eye(rows.shape[1], dtype=torch.float64)])
    right = torch.cat([target - target_mean, scale * prior.T])
    expected = torch.linalg.lstsq(left, right).solution.T
    found = block.unit(1).map(one.number)
    assert found.bias is not None
    torch.testing.assert_close(found.weight.flatten(1).double(), expected, atol=1e-4, rtol=1e-3)
    bias = target_mean - expected @ rows_mean
    torch.testing.assert_close(found.bias.double(), bias, atol=1e-3, rtol=1e-3)


def test_alone_only_the_first_block_that_is_cut_is_fitted(tmp_path: Path) -> None:
    model = model_of(tmp_path, NETWORKS["mobilenet"])
    groups = groups_of(model)
    sizes = [group.size for group in groups]
    sizes[3] //= 2
    made = with_cuts(model, KEEP, groups, {0.5: tuple(sizes)})
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    ChannelRefit(made, observe(model, made, [images()])).fit(CUT, alone=True)
    changed = {
        int(name.split(".")[1])
        for name, tensor in made.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert changed == {groups[3].block}


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [(1, 1, "half"), (1, 2, "half"), (3, 1, "half"), (3, 2, "half"), (3, 2, "same")],
)
def test_what_a_pixel_reads_times_the_weights_is_the_convolution(
    kernel: int, stride: int, padding: Literal["half", "same"]
) -> None:
    config = UnitConfig(SizeTable((7,)), SizeTable((kernel,)), stride, padding=padding)
    unit, choice = ConvUnit(config, 5, [], 1), UnitChoice(5, 7, kernel)
    x: Tensor = torch.randn(2, 5, 9, 8, generator=torch.Generator().manual_seed(0))
    expected = unit.convolve(choice, x)
    found = read_by(unit, choice, x) @ unit.kernels[str(kernel)].flatten(1).T
    torch.testing.assert_close(
        found, expected.permute(0, 2, 3, 1).flatten(0, 2), atol=1e-4, rtol=1e-4
    )


def test_a_fitted_model_takes_no_other_statistics(tmp_path: Path) -> None:
    made = halved(model_of(tmp_path, NETWORKS["resnet"]))
    with pytest.raises(ValueError, match="its weights belong to its statistics; none can be added"):
        estimated(made, [CUT], [images()])
    with pytest.raises(ValueError, match="must not be of a depthwise convolution"):
        BlockConfig((UnitConfig(None, fitted=True),))
    with pytest.raises(ValueError, match="statistics='subnet' must be 'path' of fitted units"):
        replace(made.config, statistics="subnet")
