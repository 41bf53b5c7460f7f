"""Losses through retrieve(): -mean J, J = log p(y | x) = log sum_i exp(log_weights_i + l_i), with the estimator's null passage or draws among the i.

Columns of likelihoods are those of Retrieved.log_weights: k of them, and with EXACT_Z_NULL one more for the null passage, with EXACT_Z_TAIL one more a
draw. A likelihood of -inf is 0. Missing hits count nothing, whatever their likelihood. A row without anything that has mass and likelihood has J = -inf,
a loss of inf, and no gradient; never NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .retrieval import Retrieved


def log_sum_exp(values: torch.Tensor, dim: int) -> torch.Tensor:
    """log sum exp along `dim`: of nothing but -inf it is -inf, without gradient (where torch.logsumexp has NaN)."""
    nothing = torch.isneginf(values).all(dim, keepdim=True)
    return torch.logsumexp(values.masked_fill(nothing, 0.0), dim).masked_fill(nothing.squeeze(dim), -torch.inf)


def log_marginals(found: Retrieved, log_likelihoods: torch.Tensor) -> torch.Tensor:
    """J = log p(y | x).

    Parameters
    ----------
    found : Retrieved
    log_likelihoods : torch.Tensor
        l = log p(y | x, passage): [queries, c] of sequences, or [queries, c, tokens] of each token.

    Returns
    -------
    torch.Tensor
        [queries] or [queries, tokens].
    """
    weights = found.log_weights
    if log_likelihoods.ndim not in (2, 3) or log_likelihoods.shape[:2] != weights.shape:
        extra = {"EXACT_Z_NULL": ", the null passage's last", "EXACT_Z_TAIL": ", the draws' last"}.get(found.estimator, "")
        raise ValueError(f"log_likelihoods has shape {tuple(log_likelihoods.shape)}; {found.estimator} takes [{weights.shape[0]}, {weights.shape[1]}] or "
                         f"[{weights.shape[0]}, {weights.shape[1]}, tokens]{extra}")
    if log_likelihoods.ndim == 3:
        weights = weights.unsqueeze(2)
    dead = torch.isneginf(weights).expand_as(log_likelihoods)
    return log_sum_exp((weights + log_likelihoods.masked_fill(dead, 0.0)), 1)


def rag_sequence_loss(found: Retrieved, log_likelihoods: torch.Tensor) -> torch.Tensor:
    """RAG-Sequence (Lewis et al. 2020): -mean over the queries of log sum_i p_i p(y | x, z_i). `log_likelihoods` is [queries, c], of whole sequences."""
    if log_likelihoods.ndim != 2:
        raise ValueError(f"log_likelihoods has shape {tuple(log_likelihoods.shape)}, not [queries, c]")
    return -log_marginals(found, log_likelihoods).mean()


def rag_token_loss(found: Retrieved, log_likelihoods: torch.Tensor, token_mask: torch.Tensor | None = None) -> torch.Tensor:
    """RAG-Token (Lewis et al. 2020): -mean over the queries of sum_t log sum_i p_i p(y_t | x, z_i, y_<t).

    `log_likelihoods` is [queries, c, tokens], `token_mask` [queries, tokens], bool: tokens that count (default: all).
    """
    return -_token_marginals(found, log_likelihoods, token_mask).sum(1).mean()


def realm_loss(found: Retrieved, log_likelihoods: torch.Tensor, token_mask: torch.Tensor | None = None) -> torch.Tensor:
    """REALM (Guu et al. 2020): -mean over the masked tokens of all queries of log sum_i p_i p(y_t | x, z_i).

    `log_likelihoods` is [queries, c, tokens], `token_mask` [queries, tokens], bool: tokens that were masked (default: all). Without any the loss is 0.
    """
    marginals = _token_marginals(found, log_likelihoods, token_mask)
    count = marginals.numel() if token_mask is None else int(token_mask.sum())
    return -marginals.sum() / max(count, 1)


def emdr2_loss(found: Retrieved, log_likelihoods: torch.Tensor, reader_log_likelihoods: torch.Tensor | None = None) -> torch.Tensor:
    """EMDR2 (Singh et al. 2021): -mean over the queries of log p(y | x, all passages) + log sum_i p_i stop_gradient(p(y | x, z_i)).

    `log_likelihoods` is [queries, c], and gets no gradient: it teaches the retriever. `reader_log_likelihoods` is [queries]: the reader's when it reads
    all passages at once, which teaches the reader; None where that is trained elsewhere.
    """
    loss = rag_sequence_loss(found, log_likelihoods.detach())
    return loss if reader_log_likelihoods is None else loss - reader_log_likelihoods.mean()


def contrastive_loss(queries: torch.Tensor, positives: torch.Tensor, hard_negatives: torch.Tensor | None = None, *, temperature: float = 0.05,
                     in_batch: bool = True, positive_ids: Sequence[str] | None = None,
                     negative_ids: Sequence[Sequence[str]] | None = None) -> torch.Tensor:
    """InfoNCE (van den Oord et al. 2018): -mean over the queries of log softmax(q . z / temperature) at the positive.

    Without a server: vectors come from encoders at hand, for warm starts and for hits of retrieve() that were encoded again.

    Parameters
    ----------
    queries, positives : torch.Tensor
        [queries, dim]; row i of `positives` is what query i should find.
    hard_negatives : torch.Tensor, optional
        [queries, negatives, dim].
    in_batch : bool
        Other queries' positives and hard negatives are negatives too; else only a query's own hard negatives are.
    positive_ids, negative_ids : optional
        [queries] and [queries][negatives]: a negative with the id of the query's own positive is left out, as is one with the empty id.
    """
    count = queries.shape[0]
    if positives.shape != queries.shape or (hard_negatives is not None and (hard_negatives.shape[0], hard_negatives.shape[2]) != tuple(queries.shape)):
        raise ValueError(f"queries {tuple(queries.shape)}, positives {tuple(positives.shape)} and hard_negatives "
                         f"{None if hard_negatives is None else tuple(hard_negatives.shape)} do not go together")
    if hard_negatives is None:
        hard_negatives = queries.new_zeros((count, 0, queries.shape[1]))
    each = hard_negatives.shape[1]
    own = torch.arange(count, device=queries.device)
    candidates = torch.cat([positives, hard_negatives.reshape(count * each, queries.shape[1])])
    scores = queries @ candidates.t() / temperature
    owner = torch.cat([own, own.repeat_interleave(each)])
    is_positive = torch.zeros_like(scores, dtype=torch.bool)
    is_positive[own, own] = True
    left_out = torch.zeros_like(is_positive) if in_batch else owner[None, :] != own[:, None]
    if positive_ids is not None:
        ids = list(positive_ids) + ([name for names in negative_ids for name in names] if negative_ids is not None else [None] * (count * each))
        if len(positive_ids) != count or len(ids) != count * (1 + each):
            raise ValueError(f"{len(positive_ids)} positive_ids and {len(ids) - len(positive_ids)} negative_ids for {count} queries with {each} each")
        left_out = left_out | torch.tensor([[name == mine or name == "" for name in ids] for mine in positive_ids], device=queries.device)
    return -torch.log_softmax(scores.masked_fill(left_out & ~is_positive, -torch.inf), 1)[own, own].mean()


def _token_marginals(found: Retrieved, log_likelihoods: torch.Tensor, token_mask: torch.Tensor | None) -> torch.Tensor:
    """[queries, tokens], 0 where a token does not count."""
    if log_likelihoods.ndim != 3:
        raise ValueError(f"log_likelihoods has shape {tuple(log_likelihoods.shape)}, not [queries, c, tokens]")
    if token_mask is None:
        return log_marginals(found, log_likelihoods)
    if token_mask.shape != (log_likelihoods.shape[0], log_likelihoods.shape[2]) or token_mask.dtype != torch.bool:
        raise ValueError(f"token_mask is {token_mask.dtype} of shape {tuple(token_mask.shape)}, not bool [queries, tokens]")
    # Before and after: padding may have any likelihood, NaN too.
    marginals = log_marginals(found, log_likelihoods.masked_fill(~token_mask.unsqueeze(1), 0.0))
    return marginals.masked_fill(~token_mask, 0.0)
