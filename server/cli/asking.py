"""`rheostat plan`, `infer`, `embed` and `rerank`: what people ask, of a server or of models here.

These need no tensor library unless models are run here, so that asking a server takes no start.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli import tables
from server.cli.connecting import Where, asked
from server.cli.failing import failing
from server.cli.wishes import budget_of, inputs_of, lines_of, weights_of
from server.settings import KEY, URL

if TYPE_CHECKING:
    from rheostat import AsyncClient

_Url = Annotated[
    str | None,
    typer.Option(help="Of a server. Default: models are run here.", envvar=URL, show_envvar=True),
]
_Key = Annotated[
    str | None,
    typer.Option(
        help="Of the server; others here see options, so prefer the variable.",
        envvar=KEY,
        show_envvar=True,
    ),
]
_Models = Annotated[
    Path | None, typer.Option(help="To run here: as of `rheostat serve`. Default: those shipped.")
]
_Model = Annotated[str | None, typer.Option(help="Name. Default: the one that takes such inputs.")]
_Budgets = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        help="At most: 50%, 30MFLOPs, 15MMACs, 20ms or 40MB; several hold all at once.",
    ),
]
_Quality = Annotated[
    str | None, typer.Option(help="At least, of the whole model's score: 95%. The cheapest runs.")
]
_Strict = Annotated[bool, typer.Option(help="Load makes the answer no smaller.")]
_Preferences = Annotated[
    list[str] | None,
    typer.Option("--prefer", help="TASK=WEIGHT, may be repeated. Default: equal weights."),
]
_Tasks = Annotated[
    list[str] | None, typer.Option("--task", help="May be repeated. Default: every task.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print the answer as one line of JSON.")]
_File = Annotated[
    Path | None, typer.Option(help="More texts, one on each line; - is standard input.")
]


def plan(
    model: _Model = None,
    budgets: _Budgets = None,
    min_quality: _Quality = None,
    preferences: _Preferences = None,
    tasks: _Tasks = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Length of the text.")] = None,
    url: _Url = None,
    key: _Key = None,
    models: _Models = None,
    as_json: _Json = False,
) -> None:
    """Say which subnet a budget buys, what it is worth and how long it takes; nothing is run."""
    with failing():
        budget, weights = budget_of(budgets, min_quality), weights_of(preferences)

    async def work(client: AsyncClient) -> Any:
        return await client.plan(
            model=model,
            tasks=tasks or None,
            preferences=weights,
            budget=budget,
            tokens=tokens,
        )

    receipt = asked(Where(url, key, models, model), work)
    _say(receipt, as_json, tables.plan)


def infer(
    images: Annotated[
        list[Path] | None, typer.Argument(help="Files of images: PNG, JPEG or WebP.")
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", help="Instead: NAME=TEXT or NAME=@FILE, each input of one item."),
    ] = None,
    model: _Model = None,
    budgets: _Budgets = None,
    min_quality: _Quality = None,
    strict: _Strict = False,
    preferences: _Preferences = None,
    tasks: _Tasks = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for maps: classes as .png, numbers as .npy and, to look at, .png."
        ),
    ] = None,
    url: _Url = None,
    key: _Key = None,
    models: _Models = None,
    as_json: _Json = False,
) -> None:
    """Answer tasks about images, or about inputs by name."""
    with failing():
        budget = budget_of(budgets, min_quality, strict)
        weights = weights_of(preferences)
        if bool(images) == bool(inputs):
            raise ValueError("give images or --input, one of them")
        names = [path.stem for path in images or [Path("answer")]]
        if len(set(names)) < len(names):
            raise ValueError("two images have one name, so their maps would too")
        files = [path.read_bytes() for path in images or []]
        items = [inputs_of(inputs)] if inputs else None
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)

    async def work(client: AsyncClient) -> Any:
        return await client.infer(
            files or None,
            inputs=items,
            model=model,
            tasks=tasks or None,
            preferences=weights,
            budget=budget,
        )

    answer = asked(Where(url, key, models, model), work)
    if out is not None:
        for name, outputs in zip(names, answer.outputs, strict=True):
            tables.write_maps(out, name, outputs)
    _say(answer, as_json, lambda found: tables.infer(names, found, out))


def embed(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts.")] = None,
    file: _File = None,
    out: Annotated[
        Path | None, typer.Option(help="Write vectors as .npy, float32 [texts, dimensions].")
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option(min=1, help="Leading ones to keep; the model lists which.")
    ] = None,
    model: _Model = None,
    budgets: _Budgets = None,
    min_quality: _Quality = None,
    strict: _Strict = False,
    url: _Url = None,
    key: _Key = None,
    models: _Models = None,
    as_json: _Json = False,
) -> None:
    """Turn texts into vectors."""
    with failing():
        budget = budget_of(budgets, min_quality, strict)
        given = lines_of("texts", texts, file)
        if out is not None and out.suffix != ".npy":
            raise ValueError(f"--out={out} must end in .npy")

    async def work(client: AsyncClient) -> Any:
        return await client.embed(given, model=model, dimensions=dimensions, budget=budget)

    found = asked(Where(url, key, models, model), work)
    if out is not None:
        with failing():
            tables.write_vectors(out, found.vectors)
    _say(found, as_json, lambda answer: tables.embed(given, answer, out))


def rerank(
    query: Annotated[str, typer.Argument(help="What is sought.")],
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to put in order.")] = None,
    file: _File = None,
    top: Annotated[int | None, typer.Option(min=1, help="Show only so many.")] = None,
    in_stages: Annotated[
        bool | None,
        typer.Option(
            help="Spend the budget on some texts more than on others.", show_default=False
        ),
    ] = None,
    lexical_weight: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="WEIGHT",
            help="Let the query's words in a text count beside the model's score, such as 0.5.",
            show_default=False,
        ),
    ] = None,
    model: _Model = None,
    budgets: _Budgets = None,
    min_quality: _Quality = None,
    strict: _Strict = False,
    url: _Url = None,
    key: _Key = None,
    models: _Models = None,
    as_json: _Json = False,
) -> None:
    """Put texts in order of their nearness to a query."""
    with failing():
        budget = budget_of(budgets, min_quality, strict)
        given = lines_of("texts", texts, file)

    async def work(client: AsyncClient) -> Any:
        return await client.rerank(
            query,
            given,
            model=model,
            top_n=top,
            budget=budget,
            in_stages=in_stages,
            lexical_weight=lexical_weight,
        )

    found = asked(Where(url, key, models, model), work)
    _say(found, as_json, lambda answer: tables.rerank(given, answer))


COMMANDS = (plan, infer, embed, rerank)

light = typer.Typer(name="rheostat", add_completion=False, pretty_exceptions_enable=False)
for _command in COMMANDS:
    light.command()(_command)


def is_asking(arguments: list[str]) -> bool:
    """Return whether a command line is one of these commands'."""
    return bool(arguments) and arguments[0] in {command.__name__ for command in COMMANDS}


def _say(answer: Any, as_json: bool, show: Any) -> None:
    if not as_json:
        show(answer)
        return
    json.dump(asdict(answer), sys.stdout, default=list)
    sys.stdout.write("\n")
