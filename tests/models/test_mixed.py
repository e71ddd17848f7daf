"""What mixes promise beyond the kit: their ends, bit for bit, and that they share the rest."""

from __future__ import annotations

import pytest
import torch

from models.families.mixed import AXIS, Mixed, MixedConfig, mixture
from models.variants import added_bytes
from tests.conformance.fixtures.mixed import BLOCKS, MIXES, made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    return made(tmp_path_factory.mktemp("mixed"))


def weights(model: Mixed) -> dict[str, torch.Tensor]:
    return dict(model.base.named_parameters())


def test_the_ends_are_the_skills_and_the_base_bit_for_bit(model: Mixed) -> None:
    base = weights(model)
    for number, mix in enumerate(("first", "second")):
        found = weights(model.variant({AXIS: mix}))
        for i, name in enumerate(model.names):
            assert torch.equal(found[name], model.skills[number].get_parameter(f"{i}"))
    found = weights(model.variant({AXIS: "base"}))
    assert all(found[name] is one for name, one in base.items())


def test_each_block_gets_its_own_share_and_the_rest_is_the_same_tensor(model: Mixed) -> None:
    base, found = weights(model), weights(model.variant({AXIS: "both"}))
    shares = MIXES["both"]
    for i, name in enumerate(model.names):
        block = next(b for b, own in enumerate(BLOCKS) if name.startswith(own))
        first, second = (skill.get_parameter(f"{i}") for skill in model.skills)
        expected = base[name] + shares[0][block] * (first - base[name])
        expected = expected + shares[1][block] * (second - base[name])
        torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=0)
    assert all(found[name] is one for name, one in base.items() if name not in model.names)
    own = sum(found[name].nbytes for name in model.names)
    assert added_bytes(model.variant({AXIS: "both"}), model) == own


def test_a_difference_to_a_base_gives_back_what_it_is_of() -> None:
    generator = torch.Generator().manual_seed(0)
    base, skill = (torch.randn(1000, generator=generator) for _ in range(2))
    skill[:500] *= 1e-4
    assert torch.equal(mixture(base, [(1.0, skill)]), skill)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"skills": ()}, "skills="),
        ({"blocks": ("exits", "exits")}, "blocks="),
        ({"mixes": {"one": ((1.0,),)}}, "mixes.one must have 3 numbers for each of 2 skills"),
        ({"mixes": {"one": MIXES["first"]}}, "the last one must be of zeros"),
    ],
)
def test_what_cannot_be_built_is_refused(
    model: Mixed, fields: dict[str, object], message: str
) -> None:
    own = {"skills": ("one", "two"), "blocks": BLOCKS, "mixes": MIXES} | fields
    with pytest.raises(ValueError, match=message):
        MixedConfig("exits", model.config.model, **own)  # type: ignore[arg-type]


def test_a_block_without_weights_is_refused(model: Mixed) -> None:
    own = MixedConfig("exits", model.config.model, ("one",), ("layer",), {"base": ((0.0,),)})
    with pytest.raises(ValueError, match="no weights begin with 'layer'"):
        Mixed("tiny", own)
