"""Search a few texts: a cheap first pass over all of them, a deep second one over the best.

Run a server (`make serve`), then: python docs/examples/texts.py "how do I reset my PIN?" *.txt
SERVER_URL in the environment names another server.
"""

import argparse
import os
from pathlib import Path

from rheostat import Cascade, Client


def main(url: str, query: str, texts: dict[str, str]) -> None:
    """Print names of texts, best first, and what two passes save."""
    names, documents = list(texts), list(texts.values())
    with Client(url) as client:
        cascade = Cascade(depth=1, keep=max(1, len(names) // 4))
        found = client.rerank(query, documents, cascade=cascade, truncate="right")
        whole = client.rerank(query, documents, truncate="right")
    for one in found.results:
        print(f"{one.relevance_score:.3f} {names[one.index]}")
    print(f"{1 - found.receipt.total_flops / whole.receipt.total_flops:.0%} of the FLOPs saved")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Search a few texts in two passes.")
    parser.add_argument("query", metavar="QUERY")
    parser.add_argument("texts", nargs="+", type=Path, metavar="FILE")
    chosen = parser.parse_args()
    url = os.environ.get("SERVER_URL", "http://127.0.0.1:8000")
    main(url, chosen.query, {str(path): path.read_text() for path in chosen.texts})
