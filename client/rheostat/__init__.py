"""The Python client of Rheostat, blocking and asynchronous.

    with Client("http://127.0.0.1:8000") as client:
        answer = client.infer(photo, budget=Budget(flops=2e7), preferences={"fish": 1})
        print(answer.outputs[0]["fish"].label, answer.receipt.flops)

Everything that users need is a name of this package. What is sent and what is answered have the
names of the server's JSON.
"""

from rheostat.answers import (
    DocumentText,
    Embeddings,
    InferAnswer,
    Milliseconds,
    PlanReceipt,
    Receipt,
    TaskOutput,
    TaskReceipt,
    Usage,
    Value,
)
from rheostat.asked import Budget, Cascade
from rheostat.classify_answers import (
    ClassifiedInput,
    ClassifyAnswer,
    ClassifyReceipt,
    NearLabel,
)
from rheostat.client import AsyncClient, Client
from rheostat.errors import (
    APIError,
    AuthenticationError,
    DeadlineError,
    InfeasibleBudgetError,
    InvalidAnswerError,
    InvalidRequestError,
    OverloadedError,
    ServerError,
    UnknownModelError,
)
from rheostat.index_answers import Duel, IndexDetail, Neighbor, NeighborsAnswer, QueryQuality
from rheostat.model_answers import (
    AuditEntry,
    AxisEntry,
    CostEntry,
    FrontEntry,
    ImageEntry,
    ModelDetail,
    ModelEntry,
    SpaceEntry,
    TaskEntry,
    TensorEntry,
    TextEntry,
)
from rheostat.ranking_answers import (
    RankedDocument,
    RankingReceipt,
    RerankAnswer,
    SimilarityAnswer,
    StageReceipt,
    StagesReceipt,
)
from rheostat.retries import Retries
from rheostat.version import __version__

__all__ = [
    "APIError",
    "AsyncClient",
    "AuditEntry",
    "AuthenticationError",
    "AxisEntry",
    "Budget",
    "Cascade",
    "ClassifiedInput",
    "ClassifyAnswer",
    "ClassifyReceipt",
    "Client",
    "CostEntry",
    "DeadlineError",
    "DocumentText",
    "Duel",
    "Embeddings",
    "FrontEntry",
    "ImageEntry",
    "IndexDetail",
    "InfeasibleBudgetError",
    "InferAnswer",
    "InvalidAnswerError",
    "InvalidRequestError",
    "Milliseconds",
    "ModelDetail",
    "ModelEntry",
    "NearLabel",
    "Neighbor",
    "NeighborsAnswer",
    "OverloadedError",
    "PlanReceipt",
    "QueryQuality",
    "RankedDocument",
    "RankingReceipt",
    "Receipt",
    "RerankAnswer",
    "Retries",
    "ServerError",
    "SimilarityAnswer",
    "SpaceEntry",
    "StageReceipt",
    "StagesReceipt",
    "TaskEntry",
    "TaskOutput",
    "TaskReceipt",
    "TensorEntry",
    "TextEntry",
    "UnknownModelError",
    "Usage",
    "Value",
    "__version__",
]
