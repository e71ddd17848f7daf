"""What the client sends about documents that the server keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal
from urllib.parse import quote

from rheostat.asked import Budget
from rheostat.bodies import given, json_body, reader, texts_of
from rheostat.call import Call
from rheostat.index_answers import IndexDetail, IndexList, NeighborsAnswer
from rheostat.ranking_answers import RerankAnswer

Side = Literal["left", "right"]


def create_index(
    name: str,
    documents: Mapping[str, str],
    *,
    model: str | None = None,
    adapter: str | None = None,
    pair_model: str | None = None,
) -> Call[IndexDetail]:
    """Have the server keep documents with their vectors, in place of an index of the same name.

    It takes as long as embedding them by the whole model behind all other requests: the client's
    ``timeout_s`` has to be as long.

    Args:
        name: Of the index.
        documents: Texts, by id.
        model: Its name; None for the only one that embeds texts.
        adapter: As in `rheostat.calls.infer`.
        pair_model: Compares two texts, and is measured with the documents; None for none.
    """
    entries = [{"id": one, "text": text} for one, text in documents.items()]
    asked = given(
        budget=None,
        name=name,
        model=model,
        documents=entries,
        adapter=adapter,
        pair_model=pair_model,
    )
    return Call("POST", "/v1/indexes", reader(IndexDetail), json_body(asked))


def indexes() -> Call[list[IndexDetail]]:
    """List one's own indexes."""
    read = reader(IndexList)
    return Call("GET", "/v1/indexes", lambda response: read(response).indexes, {})


def index(name: str) -> Call[IndexDetail]:
    """Describe an index."""
    return Call("GET", f"/v1/indexes/{quote(name, safe='')}", reader(IndexDetail), {})


def delete_index(name: str) -> Call[None]:
    """Have the server forget an index."""
    return Call("DELETE", f"/v1/indexes/{quote(name, safe='')}", lambda _: None, {})


def rerank_stored(
    query: str,
    ids: Sequence[str],
    *,
    index: str,
    model: str | None = None,
    top_n: int | None = None,
    budget: Budget | None = None,
    priority: int | None = None,
    return_documents: bool | None = None,
    raw_scores: bool | None = None,
    truncate: Side | None = None,
) -> Call[RerankAnswer]:
    """Put documents of an index in order.

    Args:
        query: A text.
        ids: Of the documents.
        index: Its name.
        model: Compares two texts, and looks at the documents in stages; None to go by vectors.
        top_n: Return only so many; None for all.
        budget: For the query's vector, and likewise for each pair; ``latency_ms`` is a deadline.
        priority: 0 is the highest.
        return_documents: Repeat the texts in the answer.
        raw_scores: Logits of a model that compares two texts.
        truncate: Which end to cut of a query that is too long; None to refuse it.

    Raises:
        TypeError: If the ids are one text.
    """
    asked = given(
        query=query,
        ids=texts_of("ids", ids),
        index=index,
        model=model,
        top_n=top_n,
        budget=budget,
        priority=priority,
        return_documents=return_documents,
        raw_scores=raw_scores,
        truncate=truncate,
    )
    return Call("POST", "/v1/rerank", reader(RerankAnswer), json_body(asked))


def neighbors(
    index: str,
    query: str,
    *,
    k: int | None = None,
    model: str | None = None,
    calls: int | None = None,
    budget: Budget | None = None,
    priority: int | None = None,
    return_documents: bool | None = None,
    truncate: Side | None = None,
) -> Call[NeighborsAnswer]:
    """Find the documents of an index that are nearest to a query.

    Args:
        index: Its name.
        query: A text.
        k: Documents wanted; None for 10.
        model: Compares two texts, and has the last word; None to go by vectors.
        calls: Pairs that it may compare; None for 100.
        budget: For the query's vector, and likewise for each pair; ``latency_ms`` is a deadline.
        priority: 0 is the highest.
        return_documents: Repeat the texts in the answer.
        truncate: Which end to cut of a query that is too long; None to refuse it.
    """
    asked = given(
        index=index,
        query=query,
        k=k,
        model=model,
        calls=calls,
        budget=budget,
        priority=priority,
        return_documents=return_documents,
        truncate=truncate,
    )
    return Call("POST", "/v1/neighbors", reader(NeighborsAnswer), json_body(asked))
