"""Print what `pip install .[EXTRA,...] ./client` would fetch: a layer of its own."""

import sys
import tomllib
from itertools import chain
from pathlib import Path

server, client = (
    tomllib.loads(path.read_text())["project"]
    for path in (Path("pyproject.toml"), Path("client/pyproject.toml"))
)
extras = [server["optional-dependencies"][name] for name in sys.argv[1:]]
needed = [server["dependencies"], client["dependencies"], *extras]
print(*chain.from_iterable(needed), sep="\n")
