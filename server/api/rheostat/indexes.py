"""`/v1/indexes` and `/v1/neighbors`: documents kept here, and those near a query."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Request, Response

from search.anncur import Duel
from server.api.answer import receipt_headers, unless_gone
from server.api.body import check_count, read_json
from server.api.documentation import errors, inlined, request_docs
from server.api.ranking import note_when_sent, own_scores, receipt_of
from server.api.rheostat.index_schema import (
    DuelAnswer,
    IndexAnswer,
    IndexList,
    Neighbor,
    NeighborsAnswer,
    NeighborsBody,
    NewIndexBody,
    QueryQualityAnswer,
)
from server.api.stored import stored_of
from server.clients.caller import caller_of
from server.errors import InvalidRequestError, shown
from server.indexes.asking import nearest
from server.indexes.building import build
from server.indexes.index import Index, QueryQuality
from server.inputs.sources import Passage
from server.service import Service


def routes(service: Service) -> APIRouter:
    """Return the routes; each client sees its own indexes."""
    router = APIRouter(prefix="/v1", tags=["ranking"])

    @router.get("/indexes", responses=errors())
    async def list_indexes(request: Request) -> IndexList:
        """List the client's indexes."""
        found = await service.indexes.all_of(caller_of(request).client)
        return IndexList(indexes=[_answer(one) for one in found])

    @router.post(
        "/indexes",
        status_code=201,
        openapi_extra=request_docs(json=inlined(NewIndexBody)),
        responses=errors(404, 413, 415, 422, 429),
    )
    async def create_index(request: Request) -> IndexAnswer:
        """Embed documents by the whole model, behind all other requests, and keep them.

        Takes as long as that; a client that leaves ends it.
        """
        with service.metrics.request() as tally:
            body = await read_json(request, NewIndexBody)
            most = service.indexes.max_documents
            check_count("documents", len(body.documents), most, "max_index_documents")
            _check_ids(body)
            caller = caller_of(request)
            served = service.models_of(caller).choose(body.model, "text", gives=("embedding",))
            tally.model = served.name
            documents = [(one.id, one.text) for one in body.documents]
            models = service.models_of(caller)
            scorer = body.pair_model and models.choose(body.pair_model, "text", gives=("score",))
            making = build(
                service, served, caller, body.name, documents, body.adapter, scorer or None
            )
            index = await unless_gone(request, making)
            await service.indexes.put(index)
        return _answer(index)

    @router.get("/indexes/{index}", responses=errors(404))
    async def get_index(request: Request, index: str) -> IndexAnswer:
        """Describe an index."""
        return _answer(await service.indexes.get(caller_of(request).client, index))

    @router.delete("/indexes/{index}", status_code=204, responses=errors(404))
    async def delete_index(request: Request, index: str) -> None:
        """Forget an index."""
        await service.indexes.delete(caller_of(request).client, index)

    _add_neighbors(router, service)
    return router


def _add_neighbors(router: APIRouter, service: Service) -> None:
    @router.post(
        "/neighbors",
        openapi_extra=request_docs(json=inlined(NeighborsBody)),
        responses=errors(404, 413, 415, 422, 429, 504),
    )
    async def neighbors(request: Request, response: Response) -> NeighborsAnswer:
        """Find the documents of an index that are nearest to a query."""
        with service.metrics.request() as tally:
            body = await read_json(request, NeighborsBody)
            stored = await stored_of(
                service,
                request,
                tally,
                body.index,
                body.model,
                body.budget,
                body.priority,
                body.k,
                body.calls,
            )
            query = Passage("query", body.query, truncate=body.truncate)
            index, scorer = stored.index, stored.scorer
            count = min(body.k, len(index))
            found = await unless_gone(
                request,
                nearest(service, stored.served, index, stored.question, query, count, scorer),
            )
            ranking = found.ranking
        last = stored.served if scorer is None else scorer.served
        note_when_sent(service, response, ranking)
        response.headers.update(receipt_headers(last, ranking.choice.selection))
        scores = own_scores(ranking, raw=False)
        measured = index.quality_of(ranking.choice.selection.subnet) if scorer is None else None
        return NeighborsAnswer(
            id=request.scope["state"]["request_id"],
            results=[
                Neighbor(
                    id=index.ids[found.positions[i]],
                    score=scores[i],
                    document=index.texts[found.positions[i]] if body.return_documents else None,
                )
                for i in ranking.order[: body.k]
            ],
            quality=None if measured is None else _quality(measured),
            found_by="vectors" if scorer is None else "cur" if found.is_cur else "list",
            duel=None if found.duel is None else _duel(found.duel),
            receipt=receipt_of(last, ranking),
        )


def _check_ids(body: NewIndexBody) -> None:
    seen: set[str] = set()
    for i, one in enumerate(body.documents):
        if one.id in seen:
            raise InvalidRequestError(
                f"documents[{i}].id={shown(one.id)} is there twice", f"documents[{i}].id"
            )
        seen.add(one.id)


def _answer(index: Index) -> IndexAnswer:
    return IndexAnswer(
        name=index.name,
        model=index.model,
        space=index.space,
        subnet=dict(index.subnet),
        adapter=index.adapter,
        documents=len(index),
        bytes=index.num_bytes,
        created=index.created_s,
        flops=index.flops,
        queries=[_quality(one) for one in index.queries],
        pair_model=None if index.comparisons is None else index.comparisons.model,
        duels=[_duel(one) for one in index.comparisons.duels] if index.comparisons else [],
    )


def _duel(measured: Duel) -> DuelAnswer:
    return DuelAnswer(**measured._asdict())


def _quality(measured: QueryQuality) -> QueryQualityAnswer:
    return QueryQualityAnswer(**asdict(measured))
