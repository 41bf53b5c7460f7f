"""What calls take and answer. All are immutable, and made by this package but for Passage and Chunking."""

from __future__ import annotations

import dataclasses
import datetime
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, Union

import numpy as np

from . import _matrix, _protocol

MetadataValue = Union[str, int, float, bool, list[str]]


@dataclasses.dataclass(frozen=True)
class Passage:
    """A piece of text that can be found. It is encoded as `title + " " + text`, as `text` alone where the title is empty.

    Attributes
    ----------
    id : str
        1 to 512 bytes of UTF-8, unique in a store.
    text : str
        At most 1 MiB.
    title : str
        At most 64 KiB.
    metadata : mapping of str to str, int (64 bits), float, bool or list of str
        What filters compare.
    document_id, chunk_index : str, int
        Where the passage is a chunk of a longer text: of which, and its place in it from 0.
    """

    id: str
    text: str = ""
    title: str = ""
    metadata: Mapping[str, MetadataValue] = dataclasses.field(default_factory=dict)
    document_id: str = ""
    chunk_index: int = 0


PassageLike = Union[Passage, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Hit:
    """A passage that was found.

    Attributes
    ----------
    id : str
    score : float
        Inner product of query and passage vector.
    passage : Passage or None
        Where texts were asked for.
    vector : np.ndarray or None
        [dim] float32, the one that was scored, where vectors were asked for.
    """

    id: str
    score: float
    passage: Passage | None = None
    vector: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class TokenUsage:
    """How many tokens a text had, special tokens counted, and how many of them the encoder saw."""

    input_tokens: int
    used_tokens: int
    truncated: bool


@dataclasses.dataclass(frozen=True)
class Timings:
    """Microseconds that a request spent in each phase; 0 for phases that did not run."""

    queue_us: int = 0
    tokenize_us: int = 0
    encode_us: int = 0
    search_us: int = 0
    fetch_us: int = 0
    read_us: int = 0
    total_us: int = 0
    filter_us: int = 0


@dataclasses.dataclass(frozen=True)
class EncodeResult:
    """Vectors of texts.

    Attributes
    ----------
    vectors : np.ndarray
        [texts, dim], float32, float64 or float16 as asked for.
    usage : list of TokenUsage
        One a text.
    encoder_fingerprint : str
        "QUERY:PASSAGE", 16 hex digits each.
    timings : Timings
    """

    vectors: np.ndarray
    usage: list[TokenUsage]
    encoder_fingerprint: str
    timings: Timings


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """Hits of queries.

    Attributes
    ----------
    results : list of list of Hit
        One list a query, in order; best first, ties by id, fewer than top_k only where fewer passages match.
    store, generation, revision : str, str, int
        What answered: the build, and the last write that it reflects.
    encoder_fingerprint : str
    exact : bool
        Whether the hits are the exact top_k.
    match_count : int
        Passages that the filter lets through; 0 without a filter.
    usage : list of TokenUsage or None
        One a text query, None for vectors.
    timings : Timings
    """

    results: list[list[Hit]]
    store: str
    generation: str
    revision: int
    encoder_fingerprint: str
    exact: bool
    match_count: int
    usage: list[TokenUsage | None]
    timings: Timings

    @property
    def hits(self) -> list[Hit]:
        """Of the first query."""
        return self.results[0]


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A stretch of a passage's text: UTF-8 byte offsets, start inclusive, end exclusive."""

    passage_id: str
    start_byte: int
    end_byte: int


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer, the reader's confidence in it from 0 to 1, and where it stands."""

    text: str
    score: float
    evidence: list[Evidence]


@dataclasses.dataclass(frozen=True)
class AnswerResult:
    """Answers to a question, best first; none where the reader abstained, its best confidence being below its threshold. `passages` are those that
    were read, best first, with texts."""

    answers: list[Answer]
    abstained: bool
    passages: list[Hit]
    generation: str
    revision: int
    reader: str
    timings: Timings


@dataclasses.dataclass(frozen=True)
class WriteResult:
    """Of an upsert or a deletion, which is durable, and visible to the next query.

    Attributes
    ----------
    count : int
        Passages that were upserted; of a deletion, those that were there.
    generation, revision : str, int
        The store's, from this write on.
    usage : list of TokenUsage
        One an upserted passage.
    """

    count: int
    generation: str
    revision: int
    usage: list[TokenUsage] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class PassagesResult:
    """Passages in the order of the ids that were asked for, and with include_vectors their vectors, [passages, dim] float32."""

    passages: list[Passage]
    vectors: np.ndarray | None
    generation: str
    revision: int


@dataclasses.dataclass(frozen=True)
class Chunking:
    """Documents are cut at sentence ends into passages of at most `max_tokens` of the encoder (16 to its length; 0: its length), of which whole
    sentences of at most `overlap_tokens` (0 to max_tokens / 2) are repeated from the one before."""

    max_tokens: int = 0
    overlap_tokens: int = 0


@dataclasses.dataclass(frozen=True)
class LineError:
    """A passage that was not taken: its place in the stream, from 1, its id where it had one, and why."""

    line: int
    id: str
    message: str


@dataclasses.dataclass(frozen=True)
class IngestResult:
    """Of an ingest.

    Attributes
    ----------
    generation, revision : str, int
    job : str
    done : bool
        Durable, and active unless it was not to be activated. False where it was not waited for.
    accepted_count, rejected_count, duplicate_count : int
        Of what was sent.
    reused_count : int
        Passages that were not encoded, since the vector of the same text was there.
    passage_count : int
        Passages that were written.
    errors : list of LineError
        The first 100.
    """

    generation: str
    revision: int
    job: str
    done: bool
    accepted_count: int
    rejected_count: int
    duplicate_count: int
    reused_count: int
    passage_count: int
    errors: list[LineError]


@dataclasses.dataclass(frozen=True)
class Store:
    """A store and what it serves. `generation` is the active one, empty where there is none; `error` says why it serves nothing, where it is damaged;
    `overlay_count` are passages upserted since the generation was built; `keep_generations` 0 keeps all; `encoder_precision` is "auto" or "int8"."""

    store: str
    generation: str
    revision: int
    passage_count: int
    overlay_count: int
    generation_count: int
    encoder_fingerprint: str
    size_bytes: int
    keep_generations: int
    error: str
    encoder_precision: str


@dataclasses.dataclass(frozen=True)
class Generation:
    """One build of a store.

    Attributes
    ----------
    state : str
        "LOADING", "VERIFYING", "WARMING", "READY", "SERVING", "DRAINING", "RETIRED" or "FAILED"; `state_detail` says why it failed.
    dim : int
        Of its vectors; `vector_type` is "FLOAT32", "FLOAT16" or "BFLOAT16".
    index : str
        "exact", "exact:int8" or a FAISS factory string.
    base_revision : int
        The last write that it contains.
    created : datetime.datetime
        In UTC.
    recall_at_10 : float
        Of the index with its default parameters against the exact one; 1 for exact.
    encoder_precisions : tuple of str
        What its vectors were computed in: "float32", "bfloat16", "float16", "int8", or "unknown".
    """

    generation: str
    state: str
    state_detail: str
    passage_count: int
    vector_count: int
    dim: int
    vector_type: str
    index: str
    encoder_fingerprint: str
    base_revision: int
    created: datetime.datetime
    size_bytes: int
    recall_at_10: float
    pinned: bool
    encoder_precisions: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Activation:
    """Of an activation or a roll-back. `writes_since_count` writes were replayed or dropped; `done` is False in a dry run, and where it was not waited
    for."""

    generation: str
    revision: int
    previous_generation: str
    writes_since_count: int
    job: str
    done: bool


@dataclasses.dataclass(frozen=True)
class Job:
    """A long operation.

    Attributes
    ----------
    job : str
        Its id.
    kind : str
        "ingest", "import", "activate", "rollback", "verify", "fold", "reembed", "import-encoder", "tune", "quantize", ...
    state : str
        "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED" or "INTERRUPTED" (the server ended while it ran).
    phase : str
    done, total : int
        Of this phase, in `unit`; total 0: not known.
    rate : float
        Units a second, lately.
    eta_ms : int
        Milliseconds to the end of this phase; -1: not known.
    error_code, error_message : int, str
        Where it failed: a gRPC status code, and what is said of it.
    """

    job: str
    kind: str
    state: str
    phase: str
    done: int
    total: int
    unit: str
    rate: float
    eta_ms: int
    store: str
    generation: str
    error_code: int
    error_message: str

    @property
    def running(self) -> bool:
        return self.state == "RUNNING"


@dataclasses.dataclass(frozen=True)
class EncoderInfo:
    """An encoder of the server. `max_tokens` counts special tokens; prefixes stand before texts of that role; `element_type` is what it computes
    in ("float32", "float16", "bfloat16" or "int8"), `element_type_reason` why."""

    fingerprint: str
    model: str
    dim: int
    max_tokens: int
    pooling: str
    normalize: bool
    query_prefix: str
    passage_prefix: str
    element_type: str
    device: str
    memory_bytes: int
    element_type_reason: str


@dataclasses.dataclass(frozen=True)
class ServerInfo:
    """Version, encoders (the default one first), the device that was chosen and why, limits by name (counts, bytes)."""

    version: str
    encoders: list[EncoderInfo]
    device: str
    device_reason: str
    cpu_isa: str
    readers: list[str]
    limits: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Staleness:
    """How far a session's view is behind what the encoder makes now.

    Attributes
    ----------
    age_ms : int
        Milliseconds since the generation was built.
    drift : float
        Mean distance, 1 - cosine, of a sample of passages as the newest published encoder encodes them; 0 where there is none.
    drift_sample_count : int
        Passages that it was measured of; 0: not measured.
    """

    age_ms: int
    drift: float
    drift_sample_count: int


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """The heads of the retrieval distributions of a batch of queries: of softmax(q . z / temperature) over all passages that are alive.

    Rows with fewer than k hits are filled up: id "", score NaN, log probability -inf, vector 0, passage None.

    Attributes
    ----------
    handle : str
        For Session.backward.
    ids : list of list of str
        [queries][k], best first, ties by id.
    scores : np.ndarray
        [queries, k] float32: inner products, not divided by the temperature.
    log_probs : np.ndarray
        [queries, k] float64, under the estimator's own distribution: renormalised over the head for TOP_K, exact otherwise.
    hit_counts : np.ndarray
        [queries] int64.
    log_z : np.ndarray
        [queries] float64: log of what log_probs are normalised by.
    head_mass : np.ndarray
        [queries] float64: of the head under the exact distribution; NaN for TOP_K where that was not looked at.
    log_null_prob : np.ndarray
        [queries] float64: log of the mass outside the head; -inf where there is nothing, NaN for TOP_K.
    tail_ids : list of list of str
        [queries][tail_samples] with EXACT_Z_TAIL: the draws, in order; "" where the tail is empty.
    tail_scores : np.ndarray or None
        [queries, tail_samples] float32.
    passages, tail_passages : list of list of (Passage or None), or None
        With include_text.
    vectors, tail_vectors : np.ndarray or None
        With include_vectors: [queries, k, dim] and [queries, tail_samples, dim] float32.
    mean_vectors : np.ndarray or None
        With include_mean_vectors: [queries, dim], the expected passage vector; float64 where the queries were, else float32.
    generation, revision : str, int
        The session's view.
    encoder_fingerprint : str
    staleness : Staleness
    usage : list of TokenUsage
        One a query text.
    timings : Timings
    """

    handle: str
    ids: list[list[str]]
    scores: np.ndarray
    log_probs: np.ndarray
    hit_counts: np.ndarray
    log_z: np.ndarray
    head_mass: np.ndarray
    log_null_prob: np.ndarray
    tail_ids: list[list[str]]
    tail_scores: np.ndarray | None
    passages: list[list[Passage | None]] | None
    tail_passages: list[list[Passage | None]] | None
    vectors: np.ndarray | None
    tail_vectors: np.ndarray | None
    mean_vectors: np.ndarray | None
    generation: str
    revision: int
    encoder_fingerprint: str
    staleness: Staleness
    usage: list[TokenUsage]
    timings: Timings


@dataclasses.dataclass(frozen=True)
class Gradients:
    """What Session.backward answers.

    Attributes
    ----------
    query_gradients : np.ndarray
        [queries, dim]: of J, ascent direction, for log likelihoods; the vector-Jacobian product, with the loss's own sign, for gradients.
    log_marginals : np.ndarray
        [rows] float64: J of each row of log likelihoods; -inf, with no gradient, for a row of -inf alone.
    certificates : np.ndarray
        [queries] float64: upper bounds of the Euclidean errors of the gradients against those of all passages read; NaN without
        max_log_likelihood.
    passage_gradients : np.ndarray or None
        [queries, k, dim] of the head's passage vectors, 0 where a hit is missing.
    """

    query_gradients: np.ndarray
    log_marginals: np.ndarray
    certificates: np.ndarray
    passage_gradients: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class PublishResult:
    """Of Client.publish_encoder.

    Attributes
    ----------
    fingerprint : str
        Of the new encoder, "QUERY:PASSAGE".
    job : str
        That re-encodes the store; empty where nothing is re-encoded.
    generation, revision : str, int
        The store's, that is active now; empty and 0 without a store.
    live : bool
        The store's query texts are encoded by it from now on.
    was_there : bool
        The server had this encoder before.
    """

    fingerprint: str
    job: str
    generation: str
    revision: int
    live: bool
    was_there: bool


def from_message(kind: Any, message: Any, **replaced: Any) -> Any:
    """A dataclass whose fields have the names of the message's, but for those given."""
    return kind(**{field.name: replaced[field.name] if field.name in replaced else getattr(message, field.name) for field in dataclasses.fields(kind)})


def passage_message(passage: PassageLike) -> Any:
    if isinstance(passage, Mapping):
        unknown = set(passage) - _PASSAGE_FIELDS
        if unknown:
            raise ValueError(f"a passage has no field {sorted(unknown, key=str)[0]!r}; its fields are {', '.join(sorted(_PASSAGE_FIELDS))}")
        passage = Passage(**passage)
    if not isinstance(passage, Passage):
        raise TypeError(f"a passage is the {type(passage).__name__} {reprlib.repr(passage)}, not a Passage or a mapping of its fields")
    try:
        return _passage_message(passage)
    except (TypeError, ValueError) as error:
        raise (TypeError if isinstance(error, TypeError) else ValueError)(f"passage {passage.id!r}: {error}") from None


def _passage_message(passage: Passage) -> Any:
    if not isinstance(passage.metadata, Mapping):
        raise TypeError(f"metadata is a {type(passage.metadata).__name__}, not a mapping")
    message = _protocol.message("Passage", id=passage.id, title=passage.title, text=passage.text, document_id=passage.document_id,
                                chunk_index=passage.chunk_index)
    for key, value in passage.metadata.items():
        slot = message.metadata[key]
        if isinstance(value, (bool, np.bool_)):
            slot.bool_value = bool(value)
        elif isinstance(value, str):
            slot.string_value = value
        elif isinstance(value, (int, np.integer)):
            slot.int64_value = int(value)
        elif isinstance(value, (float, np.floating)):
            slot.double_value = float(value)
        elif isinstance(value, (list, tuple, set, frozenset)):
            slot.string_list_value.values.extend(value)
            slot.string_list_value.SetInParent()
        else:
            raise TypeError(f"metadata {key!r} is a {type(value).__name__}, not a str, int, float, bool or list of str")
    return message


_PASSAGE_FIELDS = frozenset(field.name for field in dataclasses.fields(Passage))


def passage_of(message: Any) -> Passage:
    metadata: dict[str, MetadataValue] = {}
    for key, value in message.metadata.items():
        kind = value.WhichOneof("kind")
        metadata[key] = list(value.string_list_value.values) if kind == "string_list_value" else getattr(value, kind) if kind else ""
    return from_message(Passage, message, metadata=metadata)


def hit_of(message: Any) -> Hit:
    return Hit(message.id, message.score, passage_of(message.passage) if message.HasField("passage") else None,
               _matrix.decode(message.vector)[0] if message.HasField("vector") else None)


def usage_of(message: Any) -> TokenUsage:
    return from_message(TokenUsage, message)


def timings_of(message: Any) -> Timings:
    return from_message(Timings, message)


def job_of(message: Any) -> Job:
    return from_message(Job, message, state=_protocol.enum_name("JobState", message.state))


def ingest_of(message: Any) -> IngestResult:
    return from_message(IngestResult, message, errors=[from_message(LineError, error) for error in message.errors])


def generation_of(message: Any) -> Generation:
    created = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc) + datetime.timedelta(microseconds=message.created_unix_us)
    return from_message(Generation, message, state=_protocol.enum_name("GenerationState", message.state), created=created,
                        vector_type=_protocol.enum_name("VectorType", message.vector_type), encoder_precisions=tuple(message.encoder_precisions))


def retrieval_of(message: Any, top_k: int, tail_samples: int, dim: int, include_text: bool, include_vectors: bool, include_mean_vectors: bool) -> Retrieval:
    rows = len(message.results)
    log_probs = np.full((rows, top_k), -np.inf)
    for row, result in enumerate(message.results):
        log_probs[row, :len(result.log_probs)] = result.log_probs
    head = _Hits([result.hits for result in message.results], top_k, dim, include_text, include_vectors)
    tail = _Hits([result.tail_hits for result in message.results], tail_samples, dim, include_text, include_vectors)

    def column(name: str) -> np.ndarray:
        return np.array([getattr(result, name) for result in message.results], np.float64)

    return Retrieval(
        handle=message.handle, ids=head.ids, scores=head.scores, log_probs=log_probs,
        hit_counts=np.array([len(result.hits) for result in message.results], np.int64),
        log_z=column("log_z"), head_mass=column("head_mass"), log_null_prob=column("log_null_prob"),
        tail_ids=tail.ids, tail_scores=tail.scores if tail_samples else None,
        passages=head.passages, tail_passages=tail.passages if tail_samples else None,
        vectors=head.vectors, tail_vectors=tail.vectors if tail_samples else None,
        mean_vectors=_matrix.decode(message.mean_vectors) if include_mean_vectors else None,
        generation=message.generation, revision=message.revision, encoder_fingerprint=message.encoder_fingerprint,
        staleness=from_message(Staleness, message.staleness), usage=[usage_of(usage) for usage in message.usage], timings=timings_of(message.timings))


class _Hits:
    """Lists of hits as arrays of one width."""

    def __init__(self, lists: Iterable[Any], width: int, dim: int, include_text: bool, include_vectors: bool) -> None:
        lists = list(lists)
        self.ids = [[hit.id for hit in hits] + [""] * (width - len(hits)) for hits in lists]
        self.scores = np.full((len(lists), width), np.nan, np.float32)
        for row, hits in enumerate(lists):
            self.scores[row, :len(hits)] = [hit.score for hit in hits]
        self.passages: list[list[Passage | None]] | None = None
        if include_text:
            self.passages = [[passage_of(hit.passage) for hit in hits] + [None] * (width - len(hits)) for hits in lists]
        self.vectors: np.ndarray | None = None
        if include_vectors:
            self.vectors = np.zeros((len(lists), width, dim), np.float32)
            for row, hits in enumerate(lists):
                if hits:
                    self.vectors[row, :len(hits)] = np.frombuffer(b"".join(hit.vector.data for hit in hits), "<f4").reshape(len(hits), dim)
