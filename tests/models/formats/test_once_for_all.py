from __future__ import annotations

import ast
import csv
import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor

from models import checkpoint
from models.core import Plan
from models.families.convnet import Convnet, NotEstimatedError
from models.formats import once_for_all
from models.formats.folder import FormatError
from models.inputs.image import ImageInput
from models.space import Subnet
from models.train.statistics import estimated
from tests.models.formats import once_for_all_files as files
from tests.walking import answers_of

IMAGE = ImageInput(64, 64, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
SHAPES = {"image": IMAGE.shape}
FIXTURE = Path(__file__).parent / "once_for_all_rows.csv"


def read(path: Path) -> Convnet:
    return once_for_all.read(path, "tiny", image=IMAGE, depths=files.DEPTHS)


def images(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, *IMAGE.shape, generator=torch.Generator().manual_seed(seed))


def genes(rng: Random) -> dict[str, list[int]]:
    blocks = range(5 * files.DEPTHS[-1])
    return {
        "ks": [rng.choice(files.KERNELS) for _ in blocks],
        "e": [rng.choice(files.EXPANSIONS) for _ in blocks],
        "d": [rng.choice(files.DEPTHS) for _ in range(5)],
    }


def logits(model: Convnet, subnet: Subnet, x: Tensor) -> Tensor:
    (found,) = answers_of(model.plan(subnet, SHAPES), {"image": x}).values()
    return found


@pytest.fixture(scope="module")
def supernet(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], Convnet]:
    state = files.mobilenet_state()
    return state, read(files.write(tmp_path_factory.mktemp("ofa") / "ofa.pth", state))


def test_subnets_equal_plain_networks_with_the_same_weights_and_statistics(
    supernet: tuple[dict[str, Tensor], Convnet],
) -> None:
    state, model = supernet
    rng, batches = Random(1), [images(24), images(8, 1)]
    drawn = [genes(rng) for _ in range(6)]
    subnets = [model.canonical(once_for_all.choices(**one)) for one in drawn]
    ready = estimated(model, subnets, batches)
    for one, subnet in zip(drawn, subnets, strict=True):
        plain = files.settle(files.plain_mobilenet(state, **one), batches)
        torch.testing.assert_close(
            logits(ready, subnet, images(4, 2)), plain(images(4, 2)), atol=2e-4, rtol=1e-4
        )


def test_a_smaller_kernel_is_the_centre_of_the_larger_one_mapped_by_a_matrix_not_cut_out(
    supernet: tuple[dict[str, Tensor], Convnet],
) -> None:
    state, model = supernet
    name = "blocks.1.mobile_inverted_conv.depth_conv.conv"
    kernels = model.block(2).unit(1).kernels
    largest = state[f"{name}.conv.weight"]
    assert torch.equal(kernels["7"], largest)
    five = largest[:, :, 1:6, 1:6].flatten(2) @ state[f"{name}.7to5_matrix"].T
    torch.testing.assert_close(kernels["5"], five.view(-1, 1, 5, 5))
    three = five.view(-1, 1, 5, 5)[:, :, 1:4, 1:4].flatten(2) @ state[f"{name}.5to3_matrix"].T
    torch.testing.assert_close(kernels["3"], three.view(-1, 1, 3, 3))
    assert not torch.allclose(kernels["3"], largest[:, :, 2:5, 2:5], atol=0.01)


def test_statistics_of_a_slice_are_no_slice_of_the_statistics(
    supernet: tuple[dict[str, Tensor], Convnet],
) -> None:
    _, model = supernet
    ready = estimated(model, [], [images(16)])
    small, large = (ready.path(ready.canonical(one)) for one in ready.space)
    unit = ready.block(2).unit(2)  # its channels are always the same, what comes in is not
    assert (small[2].block, large[2].block) == (2, 2)
    found = [unit.statistics[one[2].number] for one in (small, large)]
    assert (found[0] - found[1]).abs().max() > 0.1


def test_subnets_that_begin_alike_share_statistics_and_steps(
    supernet: tuple[dict[str, Tensor], Convnet],
) -> None:
    _, model = supernet
    largest = model.choices.largest
    other = largest | {"stage5.block2.kernel": 3}
    plans = [estimated(model, [other], [images(8)]).plan(one, SHAPES) for one in (largest, other)]
    shared = [a.identity == b.identity for a, b in zip(*plans, strict=True)]
    assert shared == [True] * 11 + [False] * 3


def test_statistics_are_stored_with_the_subnet_and_not_estimated_again(
    supernet: tuple[dict[str, Tensor], Convnet], tmp_path: Path
) -> None:
    _, model = supernet
    ready = estimated(model, [model.choices.sample(Random(0))], [images(16)])
    checkpoint.save(tmp_path, ready, "convnet", torch.float32)
    loaded = checkpoint.load(tmp_path).model
    assert tuple(loaded.space) == tuple(ready.space)
    for subnet in ready.space:
        x = images(2, 3)
        assert torch.equal(logits(loaded, subnet, x), logits(ready, subnet, x))


def test_statistics_that_are_there_stay_as_they_are_when_others_are_added(
    supernet: tuple[dict[str, Tensor], Convnet],
) -> None:
    _, model = supernet
    first, second = (model.canonical(model.choices.sample(Random(i))) for i in (0, 1))
    before = estimated(model, [first], [images(16)])
    after = estimated(before, [second], [images(16, 9)])
    assert set(after.space) == {*before.space, second}
    x = images(2, 3)
    for subnet in before.space:
        assert torch.equal(logits(after, subnet, x), logits(before, subnet, x))


def test_choices_for_blocks_that_are_left_out_make_no_difference(
    supernet: tuple[dict[str, Tensor], Convnet],
) -> None:
    _, model = supernet
    short = model.choices.largest | {"stage2.depth": 1}
    other = short | {"stage2.block2.kernel": 3, "stage2.block2.expand": 4}
    assert (
        model.canonical(short)
        == model.canonical(other)
        != model.canonical(short | {"stage2.block1.kernel": 3})
    )
    assert identities(model.plan(short, SHAPES)) == identities(model.plan(other, SHAPES))


def identities(plan: Plan) -> list[bytes]:
    return [step.identity for step in plan]


def test_channels_are_multiples_of_eight_that_lose_at_most_a_tenth() -> None:
    # 24 x 3 = 72 and 40 x 3 = 120 stay; squeezes of 72 // 4 = 18 would lose more at 16.
    found = once_for_all.config_of((16, 16, 24, 40, 80, 112, 160), 960, 1280, ("a", "b"))
    second = found.blocks[6].units
    assert second[0].out is not None
    assert second[0].out.values == (72, 96, 144)
    assert second[1].squeeze is not None
    assert second[1].squeeze.values == (24, 24, 40)


def test_a_subnet_without_statistics_can_be_planned_but_not_run(
    supernet: tuple[dict[str, Tensor], Convnet],
) -> None:
    _, model = supernet
    plan = model.plan(model.choices.largest, SHAPES)
    assert plan.cost.macs > 0
    with pytest.raises(NotEstimatedError, match="no statistics yet"):
        answers_of(plan, {"image": images(1)})
    with pytest.raises(ValueError, match="no image to estimate"):
        estimated(model, [], [])


@pytest.mark.parametrize(
    "spelled",
    [
        lambda name: f"module.{name}",
        lambda name: name.replace(".mobile_inverted_conv.", ".conv."),
        lambda name: name.replace(".bn.bn.", ".bn.").replace(".conv.conv.weight", ".conv.weight"),
        lambda name: name.replace("classifier.linear.", "classifier.linear.linear."),
    ],
    ids=["parallel", "newer", "short", "dynamic classifier"],
)
def test_every_published_spelling_of_names_is_read(
    supernet: tuple[dict[str, Tensor], Convnet], tmp_path: Path, spelled: object
) -> None:
    state, model = supernet
    assert callable(spelled)
    renamed = {spelled(name): tensor for name, tensor in state.items()}
    found = read(files.write(tmp_path / "ofa.pth", renamed)).state_dict()
    assert all(torch.equal(found[name], own) for name, own in model.state_dict().items())


class Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("harm",)


def test_a_file_with_code_is_refused_and_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Harmful()}, tmp_path / "ofa.pth")
    with pytest.raises(FormatError, match=r"ofa\.pth"):
        read(tmp_path / "ofa.pth")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classifier.linear.bias": None}, "'classifier.linear.bias' is missing"),
        ({"first_conv.conv.bias": torch.zeros(8)}, "'first_conv.conv.bias' is not part"),
        ({"first_conv.bn.weight": torch.zeros(9)}, r"shape \[9\], not \[8\]"),
        ({"first_conv.bn.weight": torch.full((8,), torch.nan)}, "not finite"),
        ({"blocks.11.conv.point_linear.conv.weight": torch.zeros(8)}, "12 blocks; five stages"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    supernet: tuple[dict[str, Tensor], Convnet],
    tmp_path: Path,
    change: dict[str, Tensor | None],
    message: str,
) -> None:
    changed = {k: v for k, v in {**supernet[0], **change}.items() if v is not None}
    with pytest.raises(FormatError, match=message):
        read(files.write(tmp_path / "ofa.pth", changed))


def golden() -> Iterator[dict[str, str]]:
    folder = os.environ.get("RHEOSTAT_DATA")
    paths = sorted(Path(folder, "ofa-mbv3").glob("*.csv.gz")) if folder else []
    if not paths:
        pytest.skip("RHEOSTAT_DATA holds no ofa-mbv3")
    for path in paths:
        with gzip.open(path, "rt", newline="") as file:
            yield from csv.DictReader(file)


def check_row(model: Convnet, row: dict[str, str]) -> None:
    named = ast.literal_eval(row["Sub-network"])
    subnet = model.canonical(once_for_all.choices(named["ks"], named["e"], named["d"]))
    assert model.plan(subnet, {"image": (3, 224, 224)}).cost.macs == int(row["MACs"])
    assert model.parameters_of(subnet) == int(row["Model Parameters"])


@pytest.fixture(scope="module")
def published() -> Convnet:
    labels = tuple(map(str, range(1000)))
    with torch.device("meta"):
        return Convnet(
            "ofa", once_for_all.config_of((16, 16, 24, 40, 80, 112, 160), 960, 1280, labels)
        )


def test_published_subnets_have_the_published_parameters_and_macs(published: Convnet) -> None:
    rows = list(csv.DictReader(FIXTURE.read_text().splitlines()))
    assert len(rows) == 6
    for row in rows:
        check_row(published, row)


def test_all_golden_rows_reproduce_parameters_and_macs_exactly(published: Convnet) -> None:
    rows = list(golden())
    for row in rows:
        check_row(published, row)
    assert len(rows) == 1458
