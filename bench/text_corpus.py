"""Free texts to distil a text encoder on: a recipe for a file with one text a line.

Dictionaries, manuals, stories and descriptions of Debian's packages (apt-get download; nothing is
installed), docstrings of the permissively licensed packages of this environment, and train splits
of the data folder; of each no more than --most, so that no kind of text prevails. scikit-learn and
statsmodels, Python's own library, and everything that stands in a split that chooses or reports
anything are left out, see `bench.text_overlap`.

--packages FOLDER keeps what was downloaded. What was used, with licences and counts, is printed and
goes into the file of --json.
"""

from __future__ import annotations

import ast
import gzip
import html
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from random import Random
from typing import NamedTuple

from bench import report
from bench.text_overlap import Overlap, held_out
from models.train import texts
from server.settings import data_folder

_LEAST_CHARS, _MOST_CHARS, _LEAST_WORDS = 20, 400, 4
_IN_ENGLISH = ("apt-cache", "-o", "Acquire::Languages=en")
_LETTERS = 0.6  # of a text's characters, at least, are letters of English
_QUICK = 2  # sources


class Source(NamedTuple):
    """A Debian package.

    Attributes:
        package: Its name.
        licence: Of the texts.
        files: Pattern of the paths in it.
    """

    package: str
    licence: str
    files: str


DEBIAN = (
    Source("wordnet-base", "WordNet 3.0 licence", "data.*"),
    Source("dict-gcide", "GPL-3+", "*.dict.dz"),
    Source("dict-foldoc", "GFDL-1.1+", "*.dict.dz"),
    Source("dict-jargon", "public domain", "*.dict.dz"),
    Source("dict-devil", "public domain", "*.dict.dz"),
    Source("gnome-user-docs", "CC BY 3.0, CC BY-SA 3.0", "C/*/*.page"),
    Source("gimp-help-en", "GFDL-1.2+", "*.html"),
    Source("libreoffice-help-en-us", "MPL-2.0", "*.html"),
    Source("kstars-data", "GFDL-1.2+", "en/**/*.docbook"),
    Source("postgresql-doc-15", "PostgreSQL licence", "*.html"),
    Source("debian-handbook", "CC BY-SA 3.0, GPL-2+", "en-US/*.html"),
    Source("debian-reference-en", "GPL-2+", "*.html"),
    Source("anarchism", "GFDL-1.1+, GPL-2+", "*.html"),
    Source("manpages", "free licences of Linux man-pages", "man*/*.gz"),
    Source("manpages-dev", "free licences of Linux man-pages", "man*/*.gz"),
    Source("git-doc", "GPL-2", "*.html"),
    Source("perl-doc", "Artistic, GPL-1+", "*.pod"),
    Source("octave-doc", "GPL-3+, GNU documentation terms", "*.html"),
    Source("gap-doc", "GPL-2+", "*.html"),
    Source("linux-doc-6.1", "GPL-2", "*.html"),
)
# By name as installed; each under MIT, BSD, Apache-2.0, PSF or a like licence.
PACKAGES = (
    *("numpy", "scipy", "sympy", "networkx", "matplotlib", "torch", "transformers", "ray"),
    *("sentence-transformers", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "pymoo", "cma"),
    *("sqlalchemy", "alembic", "pydantic", "fastapi", "starlette", "werkzeug", "jinja2", "mako"),
    *("aiohttp", "httpx", "httpcore", "urllib3", "requests", "websockets", "uvicorn", "gevent"),
    *("openai", "cohere", "huggingface-hub", "google-auth", "google-api-core", "cryptography"),
    *("rich", "click", "typer", "pygments", "markdown-it-py", "fonttools", "pillow", "contourpy"),
    *("pytest", "mypy", "setuptools", "pip", "virtualenv", "hatchling", "coverage", "schemathesis"),
    *("joblib", "mpmath", "autograd", "simpy", "narwhals", "fsspec", "fastavro", "asyncpg"),
    *("jsonschema", "graphql-core", "attrs", "pyparsing", "grpcio", "protobuf", "tritonclient"),
    *("opentelemetry-sdk", "opentelemetry-api", "prometheus-client", "smart-open", "tomlkit"),
)
_PACKAGES_LICENCE = "MIT, BSD, Apache-2.0, PSF and the like"

_TAGS = re.compile(r"<(script|style|pre|code|screen)\b.*?</\1>|<!--.*?-->", re.S | re.I)
_BLOCKS = re.compile(
    r"</?(p|div|li|td|th|tr|h\d|dt|dd|br|title|para|item|section|table|ul)\b[^>]*>"
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")


def sentences(block: str) -> Iterator[str]:
    """Yield the sentences of a paragraph, white space runs made one space."""
    yield from _SENTENCE.split(re.sub(r"\s+", " ", block).strip())


def of_wordnet(text: str) -> Iterator[str]:
    """Yield glosses and examples of one of WordNet's files."""
    for line in text.splitlines():
        words, _, gloss = line.partition(" | ")
        if gloss and not line.startswith(" "):
            names = words.split()[4].replace("_", " ")
            yield from (part.strip(' "') for part in gloss.split('; "'))
            yield f"{names}: {gloss.split(';')[0].strip()}"


def of_dictionary(text: str) -> Iterator[str]:
    """Yield sentences of the paragraphs of a file in dictd's format."""
    plain = re.sub(r"\[[^\]]*\]|\\[^\\\n]*\\|<[^>\n]*>|--[A-Z][\w. ]*", " ", text)
    plain = re.sub("[{}]", "", plain)
    for block in re.split(r"\n\s*\n|\n(?=\s+\d+\. )", plain):
        yield from sentences(re.sub(r"^\s*\d+\. ", "", block))


def of_markup(text: str) -> Iterator[str]:
    """Yield sentences of the paragraphs of HTML, Mallard or DocBook."""
    for block in _BLOCKS.sub("\n\n", _TAGS.sub(" ", text)).split("\n\n"):
        yield from sentences(html.unescape(re.sub(r"<[^>]*>", "", block)))


def of_manual(text: str) -> Iterator[str]:
    """Yield sentences of a manual page in roff."""
    lines = [re.sub(r"^\.(B|I|BR|IR|RB|RI|BI|IB) ", "", line) for line in text.splitlines()]
    plain = "\n".join("" if line.startswith((".", "'")) else line for line in lines)
    plain = re.sub(r"\\f.|\\&|\\%", "", plain).replace("\\-", "-").replace("\\(aq", "'")
    for block in re.split(r"\n\s*\n", plain):
        yield from sentences(block)


def of_pod(text: str) -> Iterator[str]:
    """Yield sentences of Perl's plain documentation."""
    plain = re.sub(r"[A-Z]<+\s*([^<>]*?)\s*>+", r"\1", text)
    for block in re.split(r"\n\s*\n", plain):
        if not block.startswith(("=", " ", "\t")):
            yield from sentences(block)


def of_docstring(text: str) -> Iterator[str]:
    """Yield the first paragraph of a docstring whole, then its sentences and those that follow."""
    blocks = re.split(r"\n\s*\n", text)
    yield re.sub(r"\s+", " ", blocks[0]).strip()
    for block in blocks:
        if (
            ">>>" not in block
            and "::" not in block
            and not re.search(r"^\s*[-=~]{3,}", block, re.M)
        ):
            yield from sentences(block)


_READERS: dict[str, Callable[[str], Iterator[str]]] = {
    ".dz": of_dictionary,
    ".html": of_markup,
    ".page": of_markup,
    ".docbook": of_markup,
    ".gz": of_manual,
    ".pod": of_pod,
}


def of_package(source: Source, folder: Path) -> Iterator[str]:
    """Download one Debian package, where it is not there yet, and yield what its files hold."""
    place = folder / source.package
    if not place.is_dir():
        subprocess.run(["apt-get", "download", "-q", source.package], cwd=folder, check=True)
        (archive,) = folder.glob(f"{source.package}_*.deb")
        subprocess.run(["dpkg-deb", "-x", archive, place], check=True)
    for path in sorted(place.rglob(source.files)):
        if path.is_file() and not path.is_symlink():
            packed = path.suffix in (".gz", ".dz")
            content = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
            reader = _READERS.get(path.suffix, of_wordnet)
            yield from reader(content.decode("utf-8", errors="replace"))


def of_descriptions() -> Iterator[str]:
    """Yield what packages say of themselves; apt's lists must hold their English descriptions."""
    names = subprocess.run(["apt-cache", "pkgnames"], capture_output=True, check=True, text=True)
    asked = sorted(names.stdout.split())
    for first in range(0, len(asked), 2000):
        command = [*_IN_ENGLISH, "show", "--no-all-versions", *asked[first : first + 2000]]
        found = subprocess.run(command, capture_output=True, check=False).stdout
        for entry in re.findall(r"^Description-en: (.*(?:\n .*)*)", found.decode(), re.M):
            summary, _, rest = entry.partition("\n")
            yield summary
            for block in re.split(r"^ \.$|^ +[*-] ", rest, flags=re.M):
                yield from sentences(block)


def of_docstrings(package: str) -> Iterator[str]:
    """Yield texts of the docstrings of an installed package; none where it is not installed."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return
    for file in files:
        if file.suffix != ".py" or "test" in str(file):
            continue
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, OSError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module | ast.AsyncFunctionDef):
                yield from of_docstring(ast.get_docstring(node) or "")


def of_splits(root: Path) -> dict[str, Iterable[str]]:
    """Return train splits that no table is measured on, by licence."""
    return {
        "CLINC150 train (CC BY 3.0)": [
            text for text, _ in texts.intents(root, "clinc150", "train")
        ],
        "STS-Benchmark train (CC BY-SA 4.0)": texts.free_texts(root)["stsb"],
        "pydoc-code train (BSD 3-Clause)": [
            " ".join(half.split())[:_MOST_CHARS]
            for pair in texts.pydoc_code(root, "train")
            for half in pair
        ],
    }


def is_usable(text: str) -> bool:
    """Whether a text is of a usable length and mostly words."""
    if not _LEAST_CHARS <= len(text) <= _MOST_CHARS or text.count(" ") < _LEAST_WORDS - 1:
        return False
    return sum((c.isascii() and c.isalpha()) or c == " " for c in text) >= _LETTERS * len(text)


def filtered(
    parts: Mapping[str, Iterable[str]], overlap: Overlap, most: int
) -> tuple[list[str], list[list[object]]]:
    """Return usable texts, each once, in a random order, and a row on each source.

    Args:
        parts: Texts by source.
        overlap: With what is held out.
        most: Of each source, drawn at random.
    """
    seen: set[str] = set()
    kept: list[str] = []
    rows: list[list[object]] = []
    for name, part in parts.items():
        own: dict[str, str] = {}
        for text in part:
            key = texts.normal(text)
            if is_usable(text) and key not in seen:
                own[key] = text
                seen.add(key)
        drawn = Random(0).sample(list(own), min(most, len(own)))
        told = [overlap.of(key) for key in drawn]
        kept += [own[key] for key, found in zip(drawn, told, strict=True) if found is None]
        counts = [told.count(how) for how in (None, "equal", "shingles")]
        rows.append([name, len(own), *counts])
        print(*rows[-1], file=sys.stderr, flush=True)
    Random(0).shuffle(kept)
    return kept, rows


def main() -> None:
    """Read, filter and write."""
    options = report.parser(__doc__)
    options.add_argument("--out", type=Path, default=Path("texts.txt"), metavar="FILE")
    options.add_argument("--most", type=int, default=60_000, metavar="N", help="of each source")
    options.add_argument("--packages", type=Path, default=Path("packages"), metavar="FOLDER")
    chosen = options.parse_args()
    chosen.packages.mkdir(parents=True, exist_ok=True)
    debian = DEBIAN[-_QUICK:] if chosen.quick else DEBIAN
    parts: dict[str, Iterable[str]] = {
        f"{one.package} ({one.licence})": of_package(one, chosen.packages) for one in debian
    }
    if not chosen.quick:
        parts["descriptions of Debian packages (each package's own free licence)"] = (
            of_descriptions()
        )
        parts[f"docstrings of {len(PACKAGES)} packages ({_PACKAGES_LICENCE})"] = (
            text for package in PACKAGES for text in of_docstrings(package)
        )
    parts |= of_splits(data_folder())
    kept, rows = filtered(parts, Overlap(held_out(data_folder())), chosen.most)
    chosen.out.write_text("\n".join(kept) + "\n", encoding="utf-8")
    columns = ("source", "found", "taken", "left out: equal", "left out: shingles")
    report.show(f"{len(kept)} texts in {chosen.out}", columns, rows)
    report.finish({"texts": len(kept), "sources": rows}, chosen.json)


if __name__ == "__main__":
    main()
