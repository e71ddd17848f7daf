"""LoRA folders against peft itself, which runs them on transformers' own models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.backends.torch import TorchBackend
from models.families.adapted import Adapted
from models.formats import FormatError, peft, read
from models.inputs import Given
from models.inputs.adapter import KIND
from models.inputs.digest import digest_of
from models.nn.low_rank import ordered
from models.run.jobs import Done, Job
from models.space import Subnet
from tests.models.formats.public import change_json, hidden_states, pool, write_folder
from tests.tiny_text import token_rows

library: Any = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*exclude_modules:UserWarning"),
]

ROWS = token_rows((5, 1, 30, 9, 9, 3))
RANK = 4


def write_lora(public: Any, folder: Path, seed: int, **fields: Any) -> Any:
    """Write an adapter with random weights on all linear maps of layers; return peft's model."""
    chosen = {"r": RANK, "lora_alpha": 16, "target_modules": "all-linear"}
    # A pooler would be adapted too, which no vector of ours goes through.
    chosen |= {"exclude_modules": ["pooler.dense"]} | fields
    model = library.get_peft_model(public, library.LoraConfig(**chosen))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1, generator=generator)
    model.save_pretrained(folder)
    return model


def vectors(model: Adapted, names: Sequence[str | None], **choices: Any) -> Tensor:
    """Return the vectors of the rows, each with its adapter, of one batch."""
    backend = TorchBackend()
    backend.prepare(model)
    jobs = []
    for row, name in zip(ROWS, names, strict=True):
        item: dict[str, Given] = {"text": Given(row, digest_of(row), len(row))}
        if name is not None:
            number = torch.tensor(model.config.adapters.index(name))
            item[KIND] = Given(number, name, 0)
        given = model.inputs.given_choices(model.space.axes, item)
        subnet = Subnet({**model.space.largest, **given, **choices})
        jobs.append(Job(model.plan(subnet, model.inputs.shapes(item)), item))
    found: dict[int, Tensor] = {}
    for answers in backend.execute(jobs, model.inputs.collate):
        for j, done in answers:
            assert isinstance(done, Done), done
            (found[j],) = done.outputs.values()
    return torch.stack([found[j] for j in range(len(jobs))])


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "mpnet", "starcoder2"])
def test_rows_of_one_batch_get_what_peft_gives_each_of_them(
    tmp_path: Path, model_type: str
) -> None:
    public = write_folder(tmp_path, model_type)
    base = read(tmp_path, "tiny")
    plain = pool(hidden_states(public, ROWS)[-1], "mean")
    expected, factors = {}, {}
    for seed, name in enumerate(("legal", "code")):
        fields = {"use_rslora": True, "r": 3} if seed else {}
        model = write_lora(public, tmp_path / name, seed, **fields)
        expected[name] = pool(hidden_states(model.base_model.model, ROWS)[-1], "mean")
        merged = model.merge_and_unload()
        merged_states = pool(hidden_states(merged, ROWS)[-1], "mean")
        torch.testing.assert_close(merged_states, expected[name], atol=1e-5, rtol=0)
        public = write_folder(tmp_path, model_type)  # without the adapter
        factors[name] = peft.read(tmp_path / name, base.config.encoder)
    adapted = peft.with_adapters(base, "exits", "tiny", factors, tmp_path)
    names = ["legal", "code", "legal", None, "code", None]
    found = vectors(adapted, names)
    for i, one in enumerate(names):
        wanted = plain if one is None else expected[one]
        torch.testing.assert_close(found[i], wanted[i], atol=1e-5, rtol=0)


def test_the_leading_rank_is_the_best_there_is_whatever_order_the_factors_had() -> None:
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        down, up = (torch.randn(8, size, generator=generator) for size in (24, 40))
        product = up.T @ down
        own = ordered(down, up)
        torch.testing.assert_close(own[1].T @ own[0], product, atol=1e-4, rtol=1e-4)
        values = torch.linalg.svdvals(product)
        for rank in (1, 3, 6):
            best = (product - own[1][:rank].T @ own[0][:rank]).norm()
            torch.testing.assert_close(best, values[rank:].norm(), atol=1e-3, rtol=1e-4)
            assert best < (product - up[:rank].T @ down[:rank]).norm()


WRONG: list[tuple[Mapping[str, Any], str]] = [
    ({"peft_type": "LOHA"}, "peft_type='LOHA'"),
    ({"bias": "all"}, "bias='all'"),
    ({"use_dora": True}, "use_dora=True"),
    ({"modules_to_save": ["classifier"]}, "modules_to_save"),
    ({"rank_pattern": {"query": 2}}, "rank_pattern"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
    ({"new_trick": 1}, "'new_trick' is not known"),
    ({"r": 5}, "needed are"),
]


def test_what_cannot_be_followed_is_refused_by_name(tmp_path: Path) -> None:
    public = write_folder(tmp_path, "bert")
    base = read(tmp_path, "tiny")
    write_lora(public, tmp_path / "one", 0)
    for change, message in WRONG:
        path = tmp_path / "one" / peft.CONFIG
        before = path.read_text()
        change_json(path, **change)
        with pytest.raises(FormatError, match=message):
            peft.read(tmp_path / "one", base.config.encoder)
        path.write_text(before)


def test_what_is_adapted_beyond_the_layers_is_named(tmp_path: Path) -> None:
    public = write_folder(tmp_path, "bert")
    base = read(tmp_path, "tiny")
    write_lora(public, tmp_path / "one", 0, exclude_modules=None)
    with pytest.raises(FormatError, match=r"'base_model\.model\.pooler\.dense\.lora_A\.weight' is"):
        peft.read(tmp_path / "one", base.config.encoder)
