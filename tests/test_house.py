"""What CONTRIBUTING.md says of files, functions, names and imports holds for all of the code."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import models

ROOT = Path(models.__file__).parent.parent
PACKAGES = ("models", "search", "server", "client/rheostat")
MAX_FILE, MAX_FUNCTION = 300, 60

LONG_FILES = {
    "deploy/grafana/make_dashboard.py": "one dashboard, panel after panel",
    "server/errors.py": "the tree of all errors that a client can see",
    "server/observe/metrics.py": "the list of all metrics",
    "server/settings.py": "the list of all settings",
}
LONG_FUNCTIONS = {
    "client/rheostat/calls.py:rerank": "the fields of one request",
    "models/formats/huggingface.py:assemble": "one encoder, field after field",
    "server/api/kserve/rest.py:routes": "a function per path, which see the service",
    "server/api/rheostat/rerank.py:routes": "likewise",
    "server/api/tei/routes.py:routes": "likewise",
    "server/api/tei/tokens.py:routes": "likewise",
    "server/app.py:create_app": "wiring, in order",
    "server/cli/elasticizing.py:elasticize": "the options of one command",
    "server/observe/metrics.py:__init__": "one metric after the other",
}


def files(*packages: str) -> list[Path]:
    return sorted(file for package in packages for file in (ROOT / package).rglob("*.py"))


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_no_file_is_long_without_a_reason() -> None:
    long = {
        str(file.relative_to(ROOT))
        for file in files(*PACKAGES, "bench", "deploy")
        if len(file.read_text().splitlines()) > MAX_FILE
    }
    assert long == LONG_FILES.keys()


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_no_function_is_long_without_a_reason() -> None:
    long = set()
    for file in files(*PACKAGES):
        for node in functions(ast.parse(file.read_text())):
            assert node.end_lineno is not None
            if node.end_lineno - node.lineno + 1 > MAX_FUNCTION:
                long.add(f"{file.relative_to(ROOT)}:{node.name}")
    assert long == LONG_FUNCTIONS.keys()


def test_no_public_class_name_is_used_for_two_things() -> None:
    found = defaultdict(set)
    for file in files("models", "search", "server"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].add(name_of(file))
    assert {name: where for name, where in found.items() if len(where) > 1} == {}


def imported(file: Path, known: set[str]) -> set[str]:
    """Return the modules that a file imports when it is run, or would for its types."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & known
            found |= inner or ({node.module} & known)
    return found - {name_of(file)}


def test_no_module_imports_itself_through_others() -> None:
    every = files("models", "search", "server", "client/rheostat")
    known = {name_of(file) for file in every}
    uses = {name_of(file): imported(file, known) for file in every}
    done: set[str] = set()
    for start in uses:
        path: list[str] = []

        def visit(name: str, path: list[str] = path) -> None:
            assert name not in path, " -> ".join([*path[path.index(name) :], name])
            if name in done:
                return
            path.append(name)
            for other in sorted(uses[name]):
                visit(other)
            path.pop()
            done.add(name)

        visit(start)
