"""Embed texts as well as a budget allows; where none is enough, take the least that is.

Run a server (`make serve`), then: python docs/examples/budgets.py "a text" "another"
SERVER_URL in the environment names another server.
"""

import argparse
import asyncio
import os

from rheostat import AsyncClient, Budget, Embeddings, InfeasibleBudgetError


async def embed(client: AsyncClient, texts: list[str], flops: float) -> Embeddings:
    """Embed within a budget, or within the nearest one that can be met."""
    try:
        return await client.embed(texts, budget=Budget(flops=flops))
    except InfeasibleBudgetError as error:
        print(f"{flops:g} FLOPs are too few ({error.request_id}): {error.feasible:g} it is")
        return await client.embed(texts, budget=Budget(flops=error.feasible))


async def main(url: str, texts: list[str]) -> None:
    """Print what several budgets buy, asked for at once."""
    async with AsyncClient(url) as client:
        budgets = (1.0, 1e8, 1e12)
        for found in await asyncio.gather(*(embed(client, texts, flops) for flops in budgets)):
            cost, quality = found.receipt.flops, found.receipt.quality
            print(f"{len(found.vectors)} vectors: {cost:,} FLOPs, {quality:.1%} quality")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Embed texts as well as a budget allows.")
    parser.add_argument("texts", nargs="+", metavar="TEXT")
    url = os.environ.get("SERVER_URL", "http://127.0.0.1:8000")
    asyncio.run(main(url, parser.parse_args().texts))
