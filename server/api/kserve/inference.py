"""One inference of the Open Inference Protocol, whether it came by REST or by gRPC.

A request's ``parameters`` hold what other protocols have fields for: ``budget_flops``,
``budget_macs``, ``budget_fraction``, ``budget_min_quality``, ``budget_latency_ms``,
``budget_bytes``, ``budget_strict``, ``preference_<task>``, ``adapter``, ``prompt``, ``truncate``
and ``dimensions``; and the protocol's own ``timeout`` in microseconds and ``priority``, 1 the
highest. The answer's hold the receipt, flat. Only the tasks of the outputs that are asked for are
run and paid for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, ValidationError, create_model

from server.admitted import Answer
from server.api.answer import JsonObject, receipt_headers, receipt_of
from server.api.dimensions import fixed_dimensions
from server.api.kserve.inputs import sources_of
from server.api.kserve.signature import tasks_of
from server.api.kserve.tensors import MAX_INT, GivenTensor, Output
from server.api.options import Options
from server.api.outputs import to_tensor
from server.api.request_body import RequestBody
from server.api.rheostat.schema import BudgetBody, Name
from server.clients.caller import Caller
from server.errors import InvalidRequestError, UnknownModelError, shown
from server.http.forms import invalid
from server.served import Served
from server.service import Service

Parameter = bool | int | float | str
_BUDGET = "budget_"
_PREFERENCE = "preference_"


class _Parameters(RequestBody):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    timeout: int = Field(default=0, ge=0, le=MAX_INT, description="Microseconds; 0: no end.")
    priority: int = Field(
        default=0,
        ge=0,
        le=MAX_INT,
        description="1 is the highest. 0: that of whoever asks, which is also "
        "the highest that can be had.",
    )
    prompt: Name | None = Field(default=None, description="Name of one of the model's templates.")
    truncate: Literal["left", "right"] | None = Field(
        default=None, description="Which end to cut of a text that is too long; default: refuse it."
    )
    adapter: Name | None = Field(
        default=None, description="Name of one of the model's adapters; empty: none."
    )
    dimensions: int | None = Field(
        default=None, gt=0, le=MAX_INT, description="Leading dimensions of embeddings."
    )


# The limits of a budget are those of every protocol, each as a parameter of its own.
Parameters: type[_Parameters] = create_model(
    "Parameters",
    __base__=_Parameters,
    **{
        f"{_BUDGET}{name}": (field.annotation, field)
        for name, field in BudgetBody.model_fields.items()
    },  # type: ignore[call-overload]
)


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """What a request asks, whichever way it came.

    Attributes:
        parameters: Of the request, unchecked.
        inputs: Its tensors.
        outputs: The tensors wanted, with the number of classes where these are wanted instead of
            logits; empty for all.
    """

    parameters: Mapping[str, Any]
    inputs: Sequence[GivenTensor]
    outputs: Mapping[str, int | None]


@dataclass(frozen=True, slots=True)
class InferenceReply:
    """What an answer says, whichever way it goes.

    Attributes:
        outputs: In the order asked for.
        parameters: The receipt.
        headers: The receipt in short.
    """

    outputs: list[Output]
    parameters: dict[str, Parameter]
    headers: dict[str, str]


class Inference:
    """Runs requests of the protocol."""

    def __init__(self, service: Service, max_images: int, max_texts: int) -> None:
        self.service = service
        self._max_images = max_images
        self._max_texts = max_texts

    def find(self, caller: Caller, name: str, version: str) -> Served:
        """Return a model of a caller; an empty version stands for the one there is.

        Raises:
            UnknownModelError: If there is none of that name and version.
        """
        served = self.service.models_of(caller).choose(name)
        if version not in ("", served.manifest.version):
            raise UnknownModelError(
                f"version={shown(version)} of model {name!r} is not served; "
                f"{served.manifest.version!r} is",
                "version",
            )
        return served

    def max_inputs(self, served: Served) -> int:
        """Return how many inputs one request may have."""
        return self._max_texts if served.inputs.has_length else self._max_images

    async def run(
        self,
        served: Served,
        inference_request: InferenceRequest,
        options: Options,
        caller: Caller,
        left_s: float | None = None,
    ) -> InferenceReply:
        """Answer a request.

        Args:
            served: The model asked for.
            inference_request: What is asked of it.
            options: Of its headers or metadata.
            caller: Who asks.
            left_s: Until the client gives up; None if it does not say.

        Raises:
            RheostatError: As `Service.infer`; InvalidRequestError if the request makes no sense.
        """
        parameters, preferences = _read_parameters(inference_request.parameters)
        timeout_s = parameters.timeout / 1e6 if parameters.timeout else None
        given = parameters.model_dump(exclude_unset=True)
        limits = {
            name.removeprefix(_BUDGET): value
            for name, value in given.items()
            if name.startswith(_BUDGET)
        }
        question = options.question(
            caller,
            BudgetBody(**limits),
            tasks=_tasks(served, inference_request.outputs),
            preferences=preferences or None,
            fixed=fixed_dimensions(served, parameters.dimensions),
            priority=parameters.priority - 1 if parameters.priority else None,
            timeout_s=min((s for s in (timeout_s, left_s) if s is not None), default=None),
            adapter=parameters.adapter,
        )
        items = sources_of(
            served,
            inference_request.inputs,
            self.max_inputs(served),
            parameters.prompt,
            parameters.truncate,
        )
        answer = await self.service.infer(served, question, items)
        receipt = receipt_of(served, answer)
        short = receipt_headers(served, answer.selection)
        return InferenceReply(
            outputs=_outputs(served, inference_request.outputs, answer),
            parameters=_receipt_parameters(receipt, short["x-rheostat-subnet"]),
            headers=dict(short),
        )


def _read_parameters(given: Mapping[str, Any]) -> tuple[_Parameters, dict[str, float]]:
    """Return the checked parameters, and the preferences among them."""
    preferences: dict[str, float] = {}
    named: dict[str, Any] = {}
    for name, value in given.items():
        if not name.startswith(_PREFERENCE):
            named[name] = value
        elif value is None:
            continue  # not given
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidRequestError(f"parameters.{name}={shown(value)} must be a number", name)
        else:
            preferences[name.removeprefix(_PREFERENCE)] = _as_float(value)
    try:
        return Parameters.model_validate(named), preferences
    except ValidationError as error:
        raise invalid(error, Parameters, "parameters") from None


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")  # refused like any weight that is not finite


def _tasks(served: Served, outputs: Mapping[str, int | None]) -> list[str] | None:
    """Return the tasks that the outputs answer; None for all.

    Raises:
        InvalidRequestError: If an output is none of the model's, or has no classes to tell.
    """
    if not outputs:
        return None
    by_output, tasks = tasks_of(served), served.elastic.tasks
    for name, num_classes in outputs.items():
        if name not in by_output:
            raise InvalidRequestError(
                f"output {shown(name)} is none of {served.name!r}; one of {list(by_output)}",
                "outputs",
            )
        num_labels = len(tasks[by_output[name][0]].labels)
        if num_classes is not None and num_classes > num_labels:
            raise InvalidRequestError(
                f"output {name!r}: classification={num_classes} of {num_labels} classes", "outputs"
            )
    wanted = {task for name in outputs for task in by_output[name]}
    return [task for task in tasks if task in wanted]


def _outputs(served: Served, requested: Mapping[str, int | None], answer: Answer) -> list[Output]:
    by_output = tasks_of(served)
    found = []
    for name in requested or by_output:
        task = by_output[name][0]
        values = to_tensor([outputs[task] for outputs in answer.outputs])
        num_classes = requested.get(name)
        if num_classes is None:
            found.append(Output(name, values, values.shape))
        else:
            classes = _classes(values, served.elastic.tasks[task].labels, num_classes)
            found.append(Output(name, classes, (len(values), num_classes)))
    return found


def _classes(logits: NDArray[np.float32], labels: Sequence[str], num_classes: int) -> list[bytes]:
    """Return ``logit:index:label`` of the highest logits of each row, as Triton spells classes."""
    best = np.argsort(-logits, axis=1, kind="stable")[:, :num_classes]
    return [
        f"{row[i]:f}:{i}:{labels[i]}".encode()
        for row, order in zip(logits, best, strict=True)
        for i in order
    ]


def _receipt_parameters(receipt: JsonObject, subnet: str) -> dict[str, Parameter]:
    simple = bool | int | float | str
    flat = {name: value for name, value in receipt.items() if isinstance(value, simple)}
    del flat["model"], flat["version"]  # stand in the answer itself
    return {
        "subnet": subnet,
        **flat,
        "batch_size": max(receipt["batch_sizes"]),
        **{f"{stage}_ms": value for stage, value in receipt["milliseconds"].items()},
        **{f"retention_{name}": task["retention"] for name, task in receipt["tasks"].items()},
    }
