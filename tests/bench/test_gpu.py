from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import gpu
from bench.gpu.__main__ import Cell, timed
from bench.gpu.page import page
from bench.gpu.ways import Compiled, Repeated
from models.backends.cuda.graphs import GraphBackend, RecordingPolicy
from models.backends.torch import TorchBackend
from models.families.exits import Exits
from models.nn.ragged import Ragged, Value
from models.run.backend import Backend
from models.run.chain import Chain
from models.run.execution import never
from tests.tiny import tiny_model
from tests.tiny_text import tiny_exits, write_tokenizer

ROOT = Path(gpu.__file__).parents[2]
traced: Callable[[Any], Any] = partial(torch.compile, dynamic=False, backend="eager")


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Exits:
    model = tiny_exits()
    model.attach(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))
    return model


def recorded() -> Backend:
    policy = RecordingPolicy(record_after=1, compile_after=None)
    return GraphBackend("cpu", policy=policy, recorder=Repeated())


@pytest.mark.parametrize("make", [TorchBackend, recorded, partial(Compiled, "cpu", traced)])
def test_every_way_gives_the_answers_of_eager_torch_and_is_timed(
    make: Callable[[], Backend], text_model: Exits
) -> None:
    for model in (tiny_model(), text_model):
        cell = timed(make(), TorchBackend(), model, 2, 3)
        assert len(cell.ms) == 3, cell.said
        assert cell.median is not None
        assert cell.median > 0


def test_a_way_that_answers_wrongly_or_fails_is_not_timed(text_model: Exits) -> None:
    class Wrong(TorchBackend):
        def run_chain(
            self, chain: Chain, inputs: Sequence[Value], stop: Callable[[], bool] = never
        ) -> Value:
            found = super().run_chain(chain, inputs, stop)
            return found if isinstance(found, Ragged) else found + 0.1

    class Failing(TorchBackend):
        def run_chain(
            self, chain: Chain, inputs: Sequence[Value], stop: Callable[[], bool] = never
        ) -> Value:
            raise RuntimeError("no kernel image is available\nmore of it")

    assert timed(Wrong(), TorchBackend(), text_model, 2, 3).said.startswith("AssertionError")
    failed = timed(Failing(), TorchBackend(), text_model, 2, 3)
    assert failed == Cell(said="RuntimeError: no kernel image is available")


def test_the_page_names_the_device_and_says_of_a_dry_run_that_it_is_one() -> None:
    device = {"device": "NVIDIA X", "driver": "1.2"}
    text = page(device, "3 passed", ["model", "ms"], [["m", "1.0 (2.00 x)"]], is_dry=False)
    assert "device NVIDIA X, driver 1.2" in text
    assert "3 passed" in text
    assert "| m | 1.0 (2.00 x) |" in text
    assert "dry run" not in text
    assert "dry run" in page(device, "3 passed", ["model"], [["m"]], is_dry=True)


def test_the_script_refuses_what_it_does_not_know() -> None:
    done = subprocess.run(
        [ROOT / "bench" / "gpu.sh", "--wet"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "usage: bench/gpu.sh" in done.stderr
