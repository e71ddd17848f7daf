"""Ask about a photo, first for all it is worth, then for a tenth of the compute.

Run a server (`make serve`), then: python docs/examples/images.py photo.jpg
SERVER_URL in the environment names another server.
"""

import argparse
import os
from pathlib import Path

from rheostat import Budget, Client


def main(url: str, path: str) -> None:
    """Print what each answer says and costs."""
    photo = Path(path).read_bytes()
    with Client(url) as client:
        for budget in (Budget(), Budget(fraction=0.1)):
            answer = client.infer(photo, budget=budget)
            receipt = answer.receipt
            print(f"{receipt.flops:,} FLOPs, {receipt.quality:.1%} of the largest subnet's quality")
            for task, output in answer.outputs[0].items():
                print(f"  {task}: {output.label} ({output.probabilities[output.label]:.0%})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Ask about a photo at two budgets.")
    parser.add_argument("photo", metavar="FILE")
    main(os.environ.get("SERVER_URL", "http://127.0.0.1:8000"), parser.parse_args().photo)
