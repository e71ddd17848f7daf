"""What adapters promise beyond the kit: one call for all, nothing of others, and merged copies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
import torch

from models.backends.torch import TorchBackend
from models.export.merged import merged
from models.families.adapted import MAX_ADAPTERS, Adapted, AdaptedConfig
from models.inputs import Item
from models.inputs.adapter import KIND
from models.nn.low_rank import LowRank
from models.run.jobs import Job
from models.space import Subnet
from tests.conformance.fixtures.adapted import gated, made, vectors
from tests.conformance.test_batches import Calls
from tests.tiny_text import exits_config
from tests.walking import done_of

COUNT = 16


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    return vectors(tmp_path_factory.mktemp("adapted"))


def items_of(model: Adapted, numbers: Sequence[int]) -> list[Item]:
    rng = Random(0)
    rows = [torch.tensor([rng.randrange(4, 60) for _ in range(rng.randint(2, 9))]) for _ in numbers]
    return [
        model.inputs.item({"text": row, KIND: torch.tensor(number)})
        for row, number in zip(rows, numbers, strict=True)
    ]


def answers(model: Adapted, items: Sequence[Item], backend: TorchBackend) -> torch.Tensor:
    subnet = Subnet(model.space.largest)
    jobs = [Job(model.plan(subnet, model.inputs.shapes(one)), one) for one in items]
    done = done_of(backend, jobs, model.inputs.collate)
    return torch.stack([one.outputs["similarity"] for one in done])


def test_many_adapters_take_as_many_calls_as_one(tmp_path: Path) -> None:
    config = exits_config("post", heads=(1.0,), ffn=(1.0,))
    names = tuple(f"client-{i}" for i in range(COUNT))
    model = made(tmp_path, "exits", config, adapters=names)
    many, one = Calls(), Calls()
    found = answers(model, items_of(model, [i % COUNT for i in range(64)]), many)
    answers(model, items_of(model, [0] * 64), one)
    assert sum(many.calls.values()) == sum(one.calls.values()) == len(many.calls)
    assert len(found) == 64


def test_nothing_of_other_adapters_is_read(model: Adapted, tmp_path: Path) -> None:
    items = items_of(model, [1, 1])
    expected = answers(model, items, TorchBackend())
    spoiled = vectors(tmp_path)
    for part in spoiled.modules():
        if isinstance(part, LowRank):
            for other in (0, 2):
                part.down[other], part.up[other] = torch.nan, torch.nan
    torch.testing.assert_close(answers(spoiled, items, TorchBackend()), expected)


@pytest.mark.parametrize("make", [vectors, gated])
def test_a_merged_copy_gives_the_same(tmp_path: Path, make: object) -> None:
    model = make(tmp_path)  # type: ignore[operator]
    items = items_of(model, [0, 2, 1, 2])
    found = answers(model, items, TorchBackend())
    for i, one in enumerate(items):
        copy = merged(model, str(one[KIND].digest))
        job = Job(copy.plan(copy.space.largest, {"text": (9,)}), {"text": one["text"]})
        (done,) = done_of(TorchBackend(), [job], copy.inputs.collate)
        torch.testing.assert_close(done.outputs["similarity"], found[i], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="'tax' is not known; one of"):
        merged(model, "tax")


def test_an_items_text_is_not_kept_for_its_adapters_sake(model: Adapted) -> None:
    plan = model.plan(model.space.largest, {"text": (5,), KIND: ()})
    assert plan.joints == ()


def config(**fields: object) -> AdaptedConfig:
    return AdaptedConfig(
        **{"family": "exits", "model": {}, "adapters": ("a",), "ranks": (2,), "places": ("up",)}
        | fields  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"adapters": tuple(map(str, range(MAX_ADAPTERS + 1)))}, "65 names; 1 to 64"),
        ({"adapters": ("a", "a")}, "each once"),
        ({"adapters": ("",)}, "1 to 100 characters"),
        ({"ranks": (4, 2)}, "ranks="),
        ({"places": ()}, "places="),
    ],
)
def test_what_cannot_be_built_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**fields)


def test_a_trunk_with_variants_or_without_gates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="axis 'bits' is of weights"):
        made(tmp_path, "exits", exits_config("post", bits=(8, 32)), places=("up",))
    with pytest.raises(ValueError, match="'gate' is of gated layers"):
        made(tmp_path, "exits", exits_config("post"), places=("gate",))
