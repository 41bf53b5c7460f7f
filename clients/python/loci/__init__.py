"""A client of Loci, a retrieval-augmented model server.

    import loci

    with loci.Client("127.0.0.1:7440") as client:
        print(client.answer("facts", "who discovered radium?").answers)

`loci.torch`, imported by itself, trains encoders through the retriever.
"""

from ._transport import RetryPolicy
from .client import Client
from .errors import LociError
from .session import Session
from .types import (
    Activation,
    Answer,
    AnswerResult,
    Chunking,
    EncodeResult,
    EncoderInfo,
    Evidence,
    Generation,
    Gradients,
    Hit,
    IngestResult,
    Job,
    LineError,
    Passage,
    PassagesResult,
    PublishResult,
    Retrieval,
    SearchResult,
    ServerInfo,
    Staleness,
    Store,
    Timings,
    TokenUsage,
    WriteResult,
)

__all__ = [
    "Activation", "Answer", "AnswerResult", "Chunking", "Client", "EncodeResult", "EncoderInfo", "Evidence", "Generation", "Gradients",
    "Hit", "IngestResult", "Job", "LineError", "LociError", "Passage", "PassagesResult", "PublishResult", "Retrieval", "RetryPolicy",
    "SearchResult", "ServerInfo", "Session", "Staleness", "Store", "Timings", "TokenUsage", "WriteResult",
]
