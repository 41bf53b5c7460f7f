"""Retrieval that gradients flow through."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from .. import types
from ..client import Client
from ..errors import LociError
from ..session import Session, as_exclusions

ESTIMATORS = ("TOP_K", "EXACT_Z", "EXACT_Z_NULL", "EXACT_Z_TAIL", "FULL")


@dataclasses.dataclass(frozen=True)
class Retrieved:
    """The heads of the retrieval distributions of a batch of queries. Made by retrieve().

    Tensors lie on the device of the queries and are float64 where those were, else float32. Missing hits (fewer than k passages can be
    found) have log probability -inf, no gradient, vector 0, id "", passage None.

    Attributes
    ----------
    log_weights : torch.Tensor
        [queries, c], differentiable in the queries: what a likelihood of c columns is weighted by, p(y) = sum_i exp(log_weights_i + l_i).
        c is k for TOP_K, EXACT_Z and FULL; k + 1 for EXACT_Z_NULL, the null passage's last, which stands for all outside the head;
        k + tail_samples for EXACT_Z_TAIL, the draws' last, each the mass outside the head divided by the number of draws, with the gradient
        of log p of the drawn passage. The losses take it.
    log_probs : torch.Tensor
        [queries, k], its first columns: log p of the hits, best first, under the estimator's own distribution.
    log_null_prob : torch.Tensor
        [queries]: log of the mass outside the head, -inf where nothing is, NaN for TOP_K. Differentiable with EXACT_Z_NULL only.
    log_tail_weights : torch.Tensor or None
        [queries, tail_samples], the last columns of log_weights with EXACT_Z_TAIL.
    found : torch.Tensor
        [queries, k] bool: hits that are not missing.
    log_z, head_mass : torch.Tensor
        [queries], without gradient: what log_probs are normalised by; the mass of the head (NaN for TOP_K where that was not looked at).
    vectors : torch.Tensor or None
        [queries, k, dim] with include_vectors or passage_gradients. With passage_gradients it is a leaf whose `.grad` after the
        backward pass is dLoss/dz of the hits.
    tail_vectors, mean_vectors : torch.Tensor or None
        [queries, tail_samples, dim] and [queries, dim], without gradient.
    estimator : str
    retrieval : Retrieval
        What the server answered: ids, scores, passages, tail_ids, tail_passages, generation, revision, staleness, timings, ...
    session : Session
    """

    log_weights: torch.Tensor
    log_probs: torch.Tensor
    log_null_prob: torch.Tensor
    log_tail_weights: torch.Tensor | None
    found: torch.Tensor
    log_z: torch.Tensor
    head_mass: torch.Tensor
    vectors: torch.Tensor | None
    tail_vectors: torch.Tensor | None
    mean_vectors: torch.Tensor | None
    estimator: str
    retrieval: types.Retrieval
    session: Session

    @property
    def ids(self) -> list[list[str]]:
        """[queries][k], best first; "" where missing."""
        return self.retrieval.ids

    @property
    def passages(self) -> list[list[types.Passage | None]] | None:
        """[queries][k], with include_text."""
        return self.retrieval.passages

    @property
    def tail_ids(self) -> list[list[str]]:
        return self.retrieval.tail_ids

    @property
    def tail_passages(self) -> list[list[types.Passage | None]] | None:
        return self.retrieval.tail_passages

    @property
    def handle(self) -> str:
        """For session.backward."""
        return self.retrieval.handle

    @property
    def staleness(self) -> types.Staleness:
        return self.retrieval.staleness


def retrieve(q: torch.Tensor, store: Session | tuple[Client, str], k: int, *, estimator: str = "EXACT_Z_NULL", temperature: float = 1.0,
             tail_samples: int | None = None, seed: int | None = None, filter: str = "", exclusions: Sequence[Iterable[str] | None] | None = None,
             include_text: bool = True, include_vectors: bool = False, include_mean_vectors: bool = False, passage_gradients: bool = False,
             **options: Any) -> Retrieved:
    """Finds the k most probable passages of each query under softmax(q . z / temperature) over all passages of a store; differentiable in q.

        with loci.Client() as client, client.open_session("facts") as session:
            found = loci.torch.retrieve(encoder(questions), session, k=8, temperature=0.05)
            l = reader(questions, found.passages)          # [queries, 9]: log p(y | x, passage), the null passage's last
            loci.torch.rag_sequence_loss(found, l).backward()

    The backward pass asks the server for the vector-Jacobian product, whose normaliser ran over all passages. Twice differentiable it is not.

    Parameters
    ----------
    q : torch.Tensor
        [queries, dim], 1 to 4,096 rows, on any device. float64 is scored in float64; anything else in float32.
    store : Session or (Client, str)
        An open session; or a client and a store's name: then the client's own session of it, opened at the first time, again where the
        server lost it, and closed with the client. Either sees one view: see Client.shared_session for a newer one.
    k : int
        1 to 10,000; with FULL at least the number of passages.
    estimator : str
        "EXACT_Z_NULL" (default), "TOP_K" (what REALM and RAG do; biased), "EXACT_Z", "EXACT_Z_TAIL" or "FULL".
    temperature : float
        1e-12 to 1e12. One that learns divides q instead: retrieve(q / temperature, ...).
    tail_samples : int
        Draws from outside the head with EXACT_Z_TAIL. Default there: 8.
    seed : int
        Of the draws. Default: drawn from torch's generator.
    filter, exclusions
        As Session.retrieve: what is left out counts zero.
    include_text, include_vectors, include_mean_vectors : bool
    passage_gradients : bool
        Give Retrieved.vectors a gradient.
    **options
        Of Session.retrieve: exact, nprobe, ef_search, rescore_factor, recall_target, timeout_s.

    Raises
    ------
    LociError
        Here, and in the backward pass: NOT_FOUND, reason SESSION_NOT_FOUND, where the session ended before it.
    """
    estimator = str(estimator).upper()
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator is {estimator!r}, not one of {', '.join(ESTIMATORS)}")
    if not isinstance(q, torch.Tensor):
        raise TypeError(f"q is a {type(q).__name__}, not a torch.Tensor")
    if not isinstance(store, Session) and not (isinstance(store, tuple) and len(store) == 2 and isinstance(store[0], Client) and isinstance(store[1], str)):
        raise TypeError(f"store is a {type(store).__name__}, not a Session or (Client, str)")
    if q.ndim != 2 or not q.is_floating_point():
        raise ValueError(f"q is {q.dtype} of shape {tuple(q.shape)}, not floats [queries, dim]")
    if isinstance(temperature, torch.Tensor):
        if temperature.requires_grad:
            raise ValueError("temperature requires a gradient, which retrieve() does not give it; divide q by it instead, and leave temperature at 1")
        temperature = temperature.item()
    if tail_samples is None:
        tail_samples = 8 if estimator == "EXACT_Z_TAIL" else 0
    if seed is None:
        seed = int(torch.randint(0, 2**62, ())) if tail_samples else 0
    session = store if isinstance(store, Session) else store[0].shared_session(store[1])
    queries = q if q.dtype == torch.float64 else q.float()
    arguments = {"estimator": estimator, "temperature": temperature, "tail_samples": tail_samples, "seed": seed, "filter": filter,
                 "exclusions": as_exclusions(exclusions), **options}
    asked = {"include_text": include_text, "include_vectors": include_vectors or passage_gradients, "include_mean_vectors": include_mean_vectors, **arguments}
    try:
        found = session.retrieve(queries.detach().cpu().numpy(), k, **asked)
    except LociError as error:
        if session is store or error.reason != "SESSION_NOT_FOUND":
            raise
        session = store[0].shared_session(store[1])
        found = session.retrieve(queries.detach().cpu().numpy(), k, **asked)

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(device=queries.device, dtype=queries.dtype)

    def optional(values: np.ndarray | None) -> torch.Tensor | None:
        return None if values is None else tensor(values)

    vectors = optional(found.vectors)
    if passage_gradients and vectors is not None:
        vectors.requires_grad_()
    weights = found.log_probs
    if estimator == "EXACT_Z_NULL":
        weights = np.concatenate([weights, found.log_null_prob[:, None]], 1)
    elif estimator == "EXACT_Z_TAIL":
        drawn = np.repeat(found.log_null_prob[:, None] - np.log(tail_samples), tail_samples, 1)
        weights = np.concatenate([weights, drawn], 1)
    log_weights = _LogWeights.apply(queries, vectors if passage_gradients else None, tensor(weights), _Call(session, found, k, arguments))
    return Retrieved(
        log_weights=log_weights, log_probs=log_weights[:, :k], log_null_prob=log_weights[:, k] if estimator == "EXACT_Z_NULL" else tensor(found.log_null_prob),
        log_tail_weights=log_weights[:, k:] if estimator == "EXACT_Z_TAIL" else None,
        found=torch.arange(k, device=queries.device) < torch.from_numpy(found.hit_counts).to(queries.device)[:, None],
        log_z=tensor(found.log_z), head_mass=tensor(found.head_mass), vectors=vectors, tail_vectors=optional(found.tail_vectors),
        mean_vectors=optional(found.mean_vectors), estimator=estimator, retrieval=found, session=session)


@dataclasses.dataclass(frozen=True)
class _Call:
    """A retrieve() that can be made again."""

    session: Session
    found: types.Retrieval
    k: int
    arguments: dict[str, Any]

    def backward(self, queries: torch.Tensor, gradients: np.ndarray, passages: bool) -> types.Gradients:
        asked: dict[str, Any] = {"grad_log_probs": gradients, "include_passage_gradients": passages,
                                 "timeout_s": self.arguments.get("timeout_s", self.session.client.timeout_s)}
        try:
            return self.session.backward(self.found, **asked)
        except LociError as error:
            if error.reason != "HANDLE_NOT_FOUND":
                raise
        # The server keeps the latest handles only, and a job may accumulate gradients over more. The session's view and the seed are the same.
        return self.session.backward(self.session.retrieve(queries.detach().cpu().numpy(), self.k, **self.arguments), **asked)


class _LogWeights(torch.autograd.Function):
    """log_weights as a function of the queries, and of the hits' vectors."""

    @staticmethod
    def forward(ctx: Any, queries: torch.Tensor, vectors: torch.Tensor | None, weights: torch.Tensor, call: _Call) -> torch.Tensor:
        ctx.call = call
        ctx.passages = vectors is not None
        ctx.save_for_backward(queries, weights)
        return weights.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        queries, weights = ctx.saved_tensors
        # Of what has no mass there is no gradient, whatever a loss made of its -inf.
        upstream = torch.where(torch.isneginf(weights), torch.zeros_like(gradient), gradient).cpu().numpy()
        # Rows that overflowed stay visible to who scales losses, as they would with any other layer; the server refuses them.
        finite = np.isfinite(upstream).all(axis=1)
        upstream = np.where(finite[:, None], upstream, 0)
        scale = 1.0
        if upstream.dtype != np.float64:  # The product is linear: so it leaves the range of float32 in neither direction.
            scale = float(np.abs(upstream).max(initial=0)) or 1.0
            upstream = (upstream / scale).astype(np.float32)
        answer = ctx.call.backward(queries, upstream, ctx.passages)

        def tensor(values: np.ndarray | None) -> torch.Tensor | None:
            if values is None:
                return None
            values = values * values.dtype.type(scale)
            values[~finite] = np.nan
            return torch.from_numpy(values).to(device=queries.device, dtype=queries.dtype)

        return tensor(answer.query_gradients), tensor(answer.passage_gradients), None, None
