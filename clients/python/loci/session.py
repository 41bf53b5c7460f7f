"""A training session: a leased view of a store."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np

from . import _matrix, _protocol, types
from ._transport import DEFAULT
from .errors import LociError

if TYPE_CHECKING:
    from .client import Client

# In a lease it is renewed so often, so that two renewals may fail.
_RENEWALS_PER_LEASE = 3

_MAX_QUERIES = 4096  # Of a call. So many are refused before they are sent: they may be more than a message holds.


class Session:
    """One view of a store at one revision, whatever is written, swapped or deleted meanwhile. Made by Client.open_session.

    A context manager. Its lease is renewed by a thread in the background until it is closed, or nothing refers to it any more, or the
    process ends; then the server frees it, at the latest when the lease is over. Where the server lost it (a restart, a lease that ran
    out while the network was away), every later call raises LociError NOT_FOUND, reason SESSION_NOT_FOUND; open another one.
    Thread-safe. Not to be used in a forked child.

    Attributes
    ----------
    session_id : str
        Who knows it may use the session.
    store, generation, revision : str, str, int
        What it sees: the build, and the last write.
    encoder_fingerprint : str
        That query texts are encoded with; empty where no encoder serves the vectors.
    passage_count, dim : int
        Alive in the view; of its vectors.
    lease_ms : int
        Milliseconds, as granted.
    """

    def __init__(self, client: Client, store: str, generation: str, lease_ms: int, timeout_s: Any) -> None:
        self._client = client
        self._transport = client._transport
        asked_at = time.monotonic()
        reply = self._transport.call("TrainingService.OpenSession", _protocol.message(
            "OpenSessionRequest", store=store, generation=generation, lease_ms=lease_ms), timeout_s)
        self.session_id: str = reply.session_id
        self.store = store or "default"
        self.generation: str = reply.generation
        self.revision: int = reply.revision
        self.encoder_fingerprint: str = reply.encoder_fingerprint
        self.passage_count: int = reply.passage_count
        self.dim: int = reply.dim
        self.lease_ms: int = reply.lease_ms
        self._renewal = _Renewal(self._transport, self.session_id, self.lease_ms / 1000, asked_at)
        self._finalizer = weakref.finalize(self, self._renewal.stop)
        self._renewal.start()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<loci.Session of {self.store!r}, {self.generation} at revision {self.revision}>"

    @property
    def client(self) -> Client:
        return self._client

    @property
    def lost(self) -> LociError | None:
        """Why the session is not there any more, once a call or the renewal of the lease found that; None as long as it is."""
        return self._renewal.lost

    def close(self) -> None:
        """Ends the session; its handles are freed. Again, or where the server lost it or can't be reached: nothing."""
        if self._finalizer.detach() is None:
            return
        self._renewal.stop()
        try:
            self._transport.call("TrainingService.CloseSession", _protocol.message("CloseSessionRequest", session_id=self.session_id), timeout_s=5.0)
        except (LociError, RuntimeError):
            pass  # Its lease ends by itself.

    def retrieve(self, queries: np.ndarray | Sequence[str] | str, top_k: int, *, estimator: str | None = None, temperature: float = 1.0,
                 tail_samples: int = 0, seed: int = 0, filter: str = "", exclusions: Sequence[Iterable[str] | None] | None = None,
                 include_text: bool = False, include_vectors: bool = False, include_mean_vectors: bool = False, exact: bool = False, nprobe: int = 0,
                 ef_search: int = 0, rescore_factor: int = 0, recall_target: float = 0.0, timeout_s: Any = DEFAULT) -> types.Retrieval:
        """Finds the head of each query's distribution, with its probabilities and the normaliser.

        Parameters
        ----------
        queries : np.ndarray or list of str
            [queries, dim] (or one, [dim]), 1 to 4,096 rows, finite: float64 is scored in float64, anything else in float32. Or texts, which the server
            encodes in the QUERY role.
        top_k : int
            k, 1 to 10,000, times the queries at most 1,000,000.
        estimator : str
            "TOP_K", "EXACT_Z", "EXACT_Z_NULL" (default), "EXACT_Z_TAIL" or "FULL".
        temperature : float
            1e-12 to 1e12. Scores are q . z / temperature.
        tail_samples : int
            Draws from outside the head, with EXACT_Z_TAIL only: 1 to 10,000.
        seed : int
            Of the draws: in one session the same seed and request give the same draws.
        filter : str
            Passages that it does not let through count zero.
        exclusions : sequence of iterables of str
            One a query, None for none: ids that count zero for it.
        include_text, include_vectors, include_mean_vectors : bool
            Fill passages, vectors, mean_vectors.
        exact, nprobe, ef_search, rescore_factor, recall_target
            How the head is searched for, as Client.search. Its probabilities are exact whatever they say.
        timeout_s : float or None
            Seconds, all tries together; None: no limit. Default: the client's.

        Raises
        ------
        LociError
            INVALID_ARGUMENT names field and limit; NOT_FOUND, reason SESSION_NOT_FOUND.
        """
        if not 1e-12 <= temperature <= 1e12:  # 0, which the message can't tell from 1, as well.
            raise ValueError(f"temperature is {temperature}; it must be from 1e-12 to 1e12")
        texts, vectors = as_queries(queries)
        if vectors is not None and len(vectors) > _MAX_QUERIES:
            raise ValueError(f"queries has {len(vectors)} rows, the most are {_MAX_QUERIES}; give them in parts")
        request = _protocol.message(
            "RetrieveRequest", session_id=self.session_id, top_k=top_k, estimator=_protocol.enum_number("Estimator", estimator, "estimator"),
            temperature=temperature, tail_samples=tail_samples, seed=seed, filter=filter, include_text=include_text,
            include_vectors=include_vectors, include_mean_vectors=include_mean_vectors, query_texts=texts,
            exclusions=[{"ids": excluded} for excluded in as_exclusions(exclusions)],
            options=search_options(exact, nprobe, ef_search, rescore_factor, recall_target))
        if vectors is not None:
            request.query_vectors.CopyFrom(_matrix.encode(vectors if vectors.dtype == np.float64 else vectors.astype(np.float32, copy=False)))
        reply = self._call("TrainingService.Retrieve", request, timeout_s)
        return types.retrieval_of(reply, top_k, tail_samples, self.dim, include_text, include_vectors, include_mean_vectors)

    def backward(self, handle: str | types.Retrieval, log_likelihoods: Any = None, *, grad_log_probs: Any = None, row_query: Sequence[int] | None = None,
                 max_log_likelihood: float | None = None, include_passage_gradients: bool = False, dtype: Any = None,
                 timeout_s: Any = DEFAULT) -> types.Gradients:
        """Gradients of what a retrieve() of this session answered. Exactly one of log_likelihoods and grad_log_probs is given.

        Parameters
        ----------
        handle : Retrieval or str
            May be used again, until the session ends or 64 later ones were made.
        log_likelihoods : array
            l = log p(y | x, passage), [rows, c]: c is k for TOP_K, EXACT_Z and FULL, k + 1 with the null last for EXACT_Z_NULL, k +
            tail_samples with the draws last for EXACT_Z_TAIL; -inf for missing hits. The gradient is that of the sum over the rows of
            J = log p(y | x): a job that minimises -J turns its sign.
        grad_log_probs : array
            dLoss/dlog p of the same shape, finite: query_gradients is its product with the Jacobian, and has the loss's own sign.
        row_query : sequence of int
            Which query, from 0, each row belongs to, where there are several of one (tokens of a sequence); None: one row a query.
        max_log_likelihood : float
            An upper bound of l outside the head, for the certificates. 0 is right for a discrete y.
        include_passage_gradients : bool
            Fill passage_gradients.
        dtype : numpy.float32 or numpy.float64
            Of the gradients. Default: that of what was given.

        Raises
        ------
        LociError
            NOT_FOUND, reasons SESSION_NOT_FOUND and HANDLE_NOT_FOUND; INVALID_ARGUMENT names field and limit.
        """
        if (log_likelihoods is None) == (grad_log_probs is None):
            raise ValueError("give exactly one of log_likelihoods and grad_log_probs")
        field, values = ("log_likelihoods", log_likelihoods) if grad_log_probs is None else ("grad_log_probs", grad_log_probs)
        matrix = _matrix.as_matrix(values, field)
        wide = np.dtype(dtype or matrix.dtype) == np.float64
        request = _protocol.message(
            "BackwardRequest", session_id=self.session_id, handle=handle.handle if isinstance(handle, types.Retrieval) else handle,
            vector_type=_protocol.enum_number("VectorType", "FLOAT64" if wide else "FLOAT32", "dtype"), max_log_likelihood=max_log_likelihood,
            include_passage_gradients=include_passage_gradients, **{field: _matrix.encode(matrix)})
        if row_query is not None:
            request.row_query.extend(int(row) for row in row_query)
        reply = self._call("TrainingService.Backward", request, timeout_s)
        gradients = _matrix.decode(reply.query_gradients)
        passage_gradients = None
        if include_passage_gradients:
            passage_gradients = _matrix.decode(reply.passage_gradients).reshape(gradients.shape[0], -1, gradients.shape[1])
        return types.Gradients(gradients, np.array(reply.log_marginals, np.float64), np.array(reply.certificates, np.float64), passage_gradients)

    def _call(self, name: str, request: Any, timeout_s: Any) -> Any:
        try:
            return self._transport.call(name, request, timeout_s)
        except LociError as error:
            if error.reason == "SESSION_NOT_FOUND":
                self._renewal.lost = error
                self._renewal.stop()
            raise


class _Renewal:
    """The thread that renews a lease. Knows the session by its id alone, so that it does not keep the object."""

    def __init__(self, transport: Any, session_id: str, lease_s: float, asked_at: float) -> None:
        self.lost: LociError | None = None
        self._transport = transport
        self._session_id = session_id
        self._lease_s = lease_s
        self._ends_at = asked_at + lease_s  # As we know; the server's own is later.
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="loci-lease", daemon=True)

    def start(self) -> None:
        self._transport.stop_at_close(self)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        wait_s = self._lease_s / _RENEWALS_PER_LEASE
        while not self._stopped.wait(wait_s):
            asked_at = time.monotonic()
            try:
                self._transport.call("TrainingService.RenewSession", _protocol.message("RenewSessionRequest", session_id=self._session_id),
                                     timeout_s=wait_s)
                self._ends_at = asked_at + self._lease_s
            except LociError as error:
                if error.code == grpc.StatusCode.NOT_FOUND:
                    self.lost = error
                    return
                # Anything else may pass: requests renew the lease too, so that only the server knows whether it is over.
            except (RuntimeError, ValueError):
                return  # The client was closed.


def as_queries(queries: Any) -> tuple[list[str] | None, np.ndarray | None]:
    """Texts, of a text or of a list of them; or else vectors, [queries, dim], of those or of one."""
    if isinstance(queries, str):
        return [queries], None
    if isinstance(queries, np.ndarray) and queries.dtype.kind == "U" and queries.ndim == 1:
        queries = queries.tolist()
    if not isinstance(queries, (Sequence, np.ndarray)) and not hasattr(queries, "__array__") or isinstance(queries, bytes):
        raise TypeError(f"queries is a {type(queries).__name__}, not a text, a list of texts or an array of vectors [queries, dim]")
    if getattr(queries, "ndim", 1) and not len(queries):
        raise ValueError("queries is empty")
    if not isinstance(queries, np.ndarray) and all(isinstance(query, str) for query in queries):
        return list(queries), None
    array = _matrix.as_array(queries, "queries")
    return None, _matrix.as_matrix(array[None] if array.ndim == 1 else array, "queries")


def as_exclusions(exclusions: Sequence[Iterable[str] | None] | None) -> list[list[str]]:
    """One list of ids a query, empty for None; no lists where there are no exclusions. TypeError where they are ids themselves."""
    if isinstance(exclusions, str):
        raise TypeError("exclusions is a string, not one list of ids a query")
    lists = []
    for query, ids in enumerate(() if exclusions is None else exclusions):
        if isinstance(ids, str):
            raise TypeError(f"exclusions[{query}] is the string {ids!r}; exclusions are one list of ids a query, not ids")
        lists.append([] if ids is None else list(ids))
    return lists


def search_options(exact: bool, nprobe: int, ef_search: int, rescore_factor: int, recall_target: float) -> Any:
    return _protocol.message("SearchOptions", exact=exact, nprobe=nprobe, ef_search=ef_search, rescore_factor=rescore_factor, recall_target=recall_target)
