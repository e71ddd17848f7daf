"""The slimmable family against a plain network with physically cut weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import checkpoint
from models.backends.torch import TorchBackend
from models.core import plan_cost
from models.families.slimmable import Slimmable, SlimmableConfig, axis_of_stage, axis_of_task
from models.inputs.image import ImageInput
from models.space import Subnet
from tests.tiny import tiny_model

ZOO = Path(checkpoint.__file__).parent / "zoo" / "cifar100-mtl"


class CutCopy(nn.Module):
    """The same subnet built from torch's own layers, its weights cut out and copied."""

    def __init__(self, model: Slimmable, subnet: Subnet) -> None:
        super().__init__()
        config = model.config
        state = model.state_dict()
        widths = [
            round(full * float(subnet[axis_of_stage(i + 1)]))
            for i, full in enumerate(config.channels)
        ]
        self.stem = self._conv(state["stem.weight"], 3, widths[0], config.strides[0])
        self.stem_norm = self._norm(state, "stem_norm", widths[0])
        self.blocks = nn.ModuleList()
        inputs = widths[0]
        for i, width in enumerate(widths):
            for j in range(config.blocks[i]):
                stride = config.strides[i] if i and not j else 1
                name = f"stages.{i}.{j}"
                block = nn.ModuleDict(
                    {
                        "conv1": self._conv(state[f"{name}.conv1.weight"], inputs, width, stride),
                        "norm1": self._norm(state, f"{name}.norm1", width),
                        "conv2": self._conv(state[f"{name}.conv2.weight"], width, width, 1),
                        "norm2": self._norm(state, f"{name}.norm2", width),
                    }
                )
                if f"{name}.shortcut.weight" in state:
                    block["shortcut"] = self._conv(
                        state[f"{name}.shortcut.weight"], inputs, width, stride
                    )
                self.blocks.append(block)
                inputs = width
        self.decoders = nn.ModuleDict()
        for t, task in enumerate(config.tasks):
            if axis_of_task(task) not in subnet:
                continue
            width = round(config.decoder_channels * float(subnet[axis_of_task(task)]))
            name = f"decoders.{t}"
            weight, bias = state[f"{name}.head.weight"], state[f"{name}.head.bias"]
            head = nn.Linear(width, len(bias))
            head.load_state_dict({"weight": weight[:, :width].clone(), "bias": bias.clone()})
            self.decoders[task] = nn.ModuleDict(
                {
                    "conv1": self._conv(state[f"{name}.conv1.weight"], inputs, width, 1),
                    "norm1": self._norm(state, f"{name}.norm1", width),
                    "conv2": self._conv(state[f"{name}.conv2.weight"], width, width, 1),
                    "norm2": self._norm(state, f"{name}.norm2", width),
                    "head": head,
                }
            )

    @staticmethod
    def _conv(weight: Tensor, inputs: int, outputs: int, stride: int) -> nn.Conv2d:
        size = weight.shape[2]
        conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
        conv.load_state_dict({"weight": weight[:outputs, :inputs].clone().contiguous()})
        return conv

    @staticmethod
    def _norm(state: Mapping[str, Tensor], name: str, channels: int) -> nn.GroupNorm:
        norm = nn.GroupNorm(channels // 8, channels)
        norm.load_state_dict(
            {part: state[f"{name}.{part}"][:channels].clone() for part in ("weight", "bias")}
        )
        return norm

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.stem_norm(self.stem(x)))
        for block in self.blocks:
            assert isinstance(block, nn.ModuleDict)
            h = F.relu(block["norm1"](block["conv1"](x)))
            h = block["norm2"](block["conv2"](h))
            x = F.relu(h + (block["shortcut"](x) if "shortcut" in block else x))
        return {task: self._decode(decoder, x) for task, decoder in self.decoders.items()}

    @staticmethod
    def _decode(decoder: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(decoder, nn.ModuleDict)
        h = F.relu(decoder["norm1"](decoder["conv1"](x)))
        h = F.relu(decoder["norm2"](decoder["conv2"](h)))
        logits: Tensor = decoder["head"](h.mean(dim=(2, 3)))
        return logits


def count_macs(network: nn.Module, image: Tensor) -> int:
    """Count multiply-accumulates with hooks, from the shapes that really pass."""
    total = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d | nn.Linear)
        total += output.numel() * module.weight[0].numel()

    hooks = [
        module.register_forward_hook(count)
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    network(image)
    for hook in hooks:
        hook.remove()
    return total


def assert_equals_cut_copy(model: Slimmable, subnets: Iterator[Subnet]) -> int:
    backend = TorchBackend()
    images = torch.randn(2, *model.input.shape, generator=torch.Generator().manual_seed(1))
    checked = 0
    for subnet in subnets:
        tasks = [task for task in model.tasks if axis_of_task(task) in subnet]
        plan = model.plan(subnet, model.input.shape, tasks)
        answers = backend.run(plan, {"image": images})
        copy = CutCopy(model, subnet).eval()
        with torch.inference_mode():
            expected = copy(images)
            assert count_macs(copy, images[:1]) == plan_cost(plan).macs, subnet
        size = sum(p.numel() * p.element_size() for p in copy.parameters())
        assert size == plan_cost(plan).weight_bytes, subnet
        assert {step.emits for step in plan if step.path in answers} == set(expected)
        for step in plan:
            if step.path in answers:
                torch.testing.assert_close(
                    answers[step.path], expected[step.emits], atol=1e-5, rtol=0
                )
        checked += 1
    return checked


def test_every_encoder_equals_its_cut_copy_and_costs_what_it_says() -> None:
    model, rng = tiny_model(num_stages=2), Random(0)
    tasks = model.space.select(set(model.tasks))
    subnets = (row | tasks.sample(rng) for row in model.space.select({None}))
    assert assert_equals_cut_copy(model, subnets) == 16


def test_asking_for_some_tasks_runs_and_costs_only_those() -> None:
    model = tiny_model()
    subnet = model.space.select({None, "flowers"}).largest
    assert assert_equals_cut_copy(model, iter([subnet])) == 1
    plan = model.plan(subnet, model.input.shape, ["flowers"])
    assert [step.emits for step in plan] == ["feature", "feature", "flowers"]


@pytest.mark.slow
def test_shipped_model_equals_its_cut_copies() -> None:
    model = checkpoint.load(ZOO).model
    rng = Random(0)
    uniform = [Subnet(dict.fromkeys(model.space.largest, width)) for width in model.config.widths]
    sample = [model.space.sample(rng) for _ in range(300)]
    assert assert_equals_cut_copy(model, iter(uniform + sample)) == 304


def test_decoder_costs_more_after_a_wider_encoder() -> None:
    model = tiny_model()
    narrow = model.space.largest | {axis_of_stage(2): 0.25}
    costs = [
        model.plan(subnet, model.input.shape)[-1].cost.macs
        for subnet in (narrow, model.space.largest)
    ]
    assert costs[0] < costs[1]


def test_equal_encoders_share_their_paths_and_unequal_decoders_do_not() -> None:
    model = tiny_model()
    one = model.plan(model.space.largest, model.input.shape)
    two = model.plan(model.space.largest | {axis_of_task("fish"): 0.5}, model.input.shape)
    shared = {step.path for step in one} & {step.path for step in two}
    assert {path[-1][0] for path in shared if isinstance(path[-1], tuple)} == {"stage", "decoder"}
    assert [step.emits for step in two if step.path not in shared] == ["fish"]


@pytest.mark.parametrize(
    ("choices", "shape", "tasks", "message"),
    [
        ({}, (3, 16, 16), ["birds"], "unknown task 'birds'; one of"),
        ({}, (3, 8, 8), None, r"shape=\(3, 8, 8\) is not the model's input"),
        ({"encoder.stage1": 0.3}, (3, 16, 16), None, "encoder.stage1=0.3 is not allowed"),
        ({}, (3, 16, 16), ["fish"], "unknown axis 'decoder.flowers'"),
    ],
    ids=["task", "shape", "width", "axis-of-another-task"],
)
def test_plan_refuses_what_the_model_does_not_have(
    choices: dict[str, float], shape: tuple[int, ...], tasks: list[str] | None, message: str
) -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match=message):
        model.plan(model.space.largest | choices, shape, tasks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": (32,)}, "one entry per stage, not 1, 4 and 4"),
        ({"widths": (1.0, 0.5)}, "must ascend and end at 1"),
        ({"widths": (0.5,)}, "must ascend and end at 1"),
        ({"tasks": {}}, "tasks is empty"),
        ({"tasks": {"fish": ("ray", "ray")}}, r"tasks\.fish=.* distinct labels"),
        ({"decoder_channels": 24}, "24 channels x width 0.25 is not a multiple of 8"),
    ],
    ids=["stages", "descending", "no-full-width", "no-tasks", "labels", "group-size"],
)
def test_impossible_architectures_are_refused(changes: dict[str, object], message: str) -> None:
    fields: dict[str, object] = {
        "tasks": {"fish": ("ray", "shark")},
        "input": ImageInput(16, 16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    }
    with pytest.raises(ValueError, match=message):
        SlimmableConfig(**{**fields, **changes})  # type: ignore[arg-type]  # on purpose


def test_overlapping_calls_with_different_subnets_do_not_disturb_each_other() -> None:
    from concurrent.futures import ThreadPoolExecutor

    model, backend, rng = tiny_model(), TorchBackend(), Random(3)
    image = torch.randn(1, *model.input.shape)
    plans = [model.plan(model.space.sample(rng), model.input.shape) for _ in range(64)]
    expected = [backend.run(plan, {"image": image}) for plan in plans]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda plan: backend.run(plan, {"image": image}), plans))
    for answer, want in zip(answers, expected, strict=True):
        for path, logits in want.items():
            torch.testing.assert_close(answer[path], logits, atol=1e-6, rtol=0)
