"""Print what `pip install .[EXTRA,...]` would install, without the project: a layer of its own."""

import sys
import tomllib
from itertools import chain
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = [project["optional-dependencies"][name] for name in sys.argv[1:]]
print(*project["dependencies"], *chain.from_iterable(extras), sep="\n")
