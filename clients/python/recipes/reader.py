"""Readers over cached token states of a frozen encoder: what gives a retrieved passage its likelihood log p(y | x, passage).

Both are mixtures of what stands in the passage and of what is known without one, so that every likelihood is of a distribution (at most 0), and so that
the likelihood with no passage at all, the null passage, is the second part alone:

    SpanReader          p(answer | question, passage) = g * sum over its occurrences of p(start) p(end)  +  (1 - g) * p(answer | question)
    MaskedTokenReader   p(token | text, passage)      = g * sum over its occurrences of p(copy)          +  (1 - g) * p(token | text)

g, start, end and copy are of a small network over the passage's token states, each of which attends to the question's; p(answer | question) is a
log-linear model over words. (The copying mixture is that of pointer-generator networks, See et al. 2017.)
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import math
import pathlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import loci.torch
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from corpus import PASSAGE_TOKENS, QUESTION_TOKENS, Data, Progress, Question, StateCache, Tokens, find, padded, shuffled

MAX_ANSWER_TOKENS = 12
MAX_MASKS = 3
NEVER = -1e4  # A logit that is as good as -infinity and has a gradient.


class Interaction(nn.Module):
    """What each token of a passage is in the light of a question: [n, P, width] from both sides' projected states."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.state = nn.Linear(dim, width)
        self.word = nn.Linear(dim, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(3 * width + 2, width)
        self.context = nn.ModuleList([nn.Conv1d(width, width, 5, padding=2) for _ in range(2)])
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2)])
        self.scale = nn.Parameter(torch.tensor(4.0))

    def project(self, states: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """[..., dim] states and word embeddings -> [..., width]. Of one text alone: made once a passage where nothing is trained."""
        return self.norm(self.state(states) + self.word(words))

    def forward(self, passage: torch.Tensor, passage_tokens: torch.Tensor, question: torch.Tensor, question_tokens: torch.Tensor) -> torch.Tensor:
        near = F.normalize(passage, dim=-1) @ F.normalize(question, dim=-1).transpose(1, 2) * self.scale
        near = near.masked_fill((question_tokens == 0)[:, None], NEVER)
        attended = near.softmax(-1) @ question
        same = ((passage_tokens[:, :, None] == question_tokens[:, None]) & (passage_tokens > 0)[:, :, None]).any(-1, keepdim=True)
        best = near.max(-1, keepdim=True).values * (passage_tokens > 0)[:, :, None]
        hidden = F.gelu(self.mix(torch.cat([passage, attended, passage * attended, same.to(passage), best], -1)))
        for context, norm in zip(self.context, self.norms):
            hidden = norm(hidden + F.gelu(context(hidden.transpose(1, 2)).transpose(1, 2)))
        return hidden


class Words(nn.Module):
    """Log-probabilities of a word at no place in particular: log softmax of (W x) . embedding + bias. [n, dim] -> [n, vocabulary]."""

    def __init__(self, embeddings: torch.Tensor, counts: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("embeddings", embeddings, persistent=False)
        self.transform = nn.Linear(embeddings.shape[1], embeddings.shape[1])
        nn.init.zeros_(self.transform.weight)
        nn.init.zeros_(self.transform.bias)
        self.bias = nn.Parameter(torch.from_numpy(np.log(counts + 0.05)).float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.transform(x) @ self.embeddings.T + self.bias).log_softmax(-1)


@dataclass
class Texts:
    """Texts of a cache: their token ids [n, length] and their states, which are read when they are needed."""

    cache: StateCache
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def tokens(self, which: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self.cache.token_ids[self.rows[which]].astype(np.int64))

    def states(self, which: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self.cache.states[self.rows[which]].astype(np.float32))

    def vectors(self) -> np.ndarray:
        return self.cache.vectors[self.rows]


class SpanReader(nn.Module):
    def __init__(self, embeddings: torch.Tensor, answer_counts: np.ndarray, answer_lengths: np.ndarray, width: int = 128) -> None:
        """`embeddings` [vocabulary, dim] are the frozen encoder's; `answer_counts` [vocabulary] and `answer_lengths` [MAX_ANSWER_TOKENS + 1] are how
        often the training answers have a token and a length."""
        super().__init__()
        dim = embeddings.shape[1]
        self.register_buffer("embeddings", embeddings, persistent=False)
        self.interaction = Interaction(dim, width)
        self.ends = nn.Linear(width, 2)
        self.gate = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 1))
        self.words = Words(embeddings, answer_counts)
        lengths = answer_lengths + 0.5
        self.register_buffer("log_length", torch.from_numpy(np.log(lengths / lengths.sum())).float())

    def project(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return self.interaction.project(states, self.embeddings[tokens])

    def spans(
        self, passage: torch.Tensor, passage_tokens: torch.Tensor, question: torch.Tensor, question_tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """log p(start) and log p(end), each [n, P], and the logit of g [n]."""
        hidden = self.interaction(passage, passage_tokens, question, question_tokens)
        readable = passage_tokens > 0
        logits = self.ends(hidden).masked_fill(~readable[:, :, None], NEVER).log_softmax(1)
        asked = (question * (question_tokens > 0)[:, :, None]).sum(1) / (question_tokens > 0).sum(1, keepdim=True)
        gate = self.gate(torch.cat([hidden.masked_fill(~readable[:, :, None], NEVER).max(1).values, asked], -1))[:, 0]
        return logits[:, :, 0], logits[:, :, 1], gate

    def without_passage(self, question_states: torch.Tensor, question_tokens: torch.Tensor, answers: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """log p(answer | question), [n]: the null passage's likelihood. `answers` is [n, MAX_ANSWER_TOKENS], zeros behind `lengths`."""
        mask = (question_tokens > 0)[:, :, None]
        words = self.words((question_states * mask).sum(1) / mask.sum(1))
        return self.log_length[lengths] + (words.gather(1, answers) * (torch.arange(answers.shape[1]) < lengths[:, None])).sum(1)

    @staticmethod
    def likelihood(start: torch.Tensor, end: torch.Tensor, gate: torch.Tensor, found: torch.Tensor, lengths: torch.Tensor, null: torch.Tensor) -> torch.Tensor:
        """log p(answer | question, passage), [n]. `found` [n, P] is true where the answer begins."""
        last = (torch.arange(found.shape[1]) + lengths[:, None] - 1).clamp(max=found.shape[1] - 1)
        span = (start + end.gather(1, last)).masked_fill(~found, NEVER).logsumexp(1)
        return torch.logaddexp(F.logsigmoid(gate) + span, F.logsigmoid(-gate) + null)


class Reading:
    """A trained SpanReader with what it reads: likelihoods of pairs, each read once.

    `likelihoods(questions, passages)` are indices into `questions` and `passages`.
    """

    def __init__(
        self,
        reader: SpanReader,
        questions: Texts,
        answers: np.ndarray,
        lengths: np.ndarray,
        passages: Texts,
        continues: np.ndarray,
        what: str = "reading passages",
    ) -> None:
        self.reader, self.questions, self.continues = reader.eval(), questions, continues
        self.answers, self.lengths = answers, lengths
        with torch.no_grad():
            everything = np.arange(len(questions.rows))
            self.question_tokens = questions.tokens(everything)
            self.question, null = [], []
            for part in np.array_split(everything, max(len(everything) // 256, 1)):
                states = questions.states(part)
                self.question.append(reader.project(states, self.question_tokens[part]).half())
                null.append(
                    reader.without_passage(
                        states, self.question_tokens[part], torch.from_numpy(answers[part].astype(np.int64)), torch.from_numpy(lengths[part])
                    )
                )
            self.question, self.null = torch.cat(self.question), torch.cat(null).double().numpy()
            everything = np.arange(len(passages.rows))
            self.passage_tokens = passages.tokens(everything)
            progress, projected = Progress(what, len(everything)), []
            for part in np.array_split(everything, max(len(everything) // 256, 1)):
                projected.append(reader.project(passages.states(part), self.passage_tokens[part]).half())
                progress(len(part))
            self.passage = torch.cat(projected)
        self.known: list[dict[int, float]] = [{} for _ in self.null]
        self.pairs_read = 0

    def read_batch(self, questions: np.ndarray, passages: np.ndarray) -> np.ndarray:
        """log-likelihoods [n, k] of n questions' answers given k passages each."""
        pairs = sorted({(q, p) for q, row in zip(questions.tolist(), passages.tolist()) for p in row if p not in self.known[q]})
        for first in range(0, len(pairs), 512):
            part = np.array(pairs[first : first + 512])
            for (q, p), value in zip(part.tolist(), self._pairs(part[:, 0], part[:, 1]).tolist()):
                self.known[q][p] = value
        return np.array([[self.known[q][p] for p in row] for q, row in zip(questions.tolist(), passages.tolist())])

    def _pairs(self, questions: np.ndarray, passages: np.ndarray) -> np.ndarray:
        self.pairs_read += len(questions)
        tokens = self.passage_tokens[passages]
        found = np.zeros(tokens.shape, bool)
        for question in np.unique(questions):
            at = questions == question
            found[at] = find(tokens[at].numpy(), self.answers[question][: self.lengths[question]], self.continues)
        asked = int((self.question_tokens[questions] > 0).sum(1).max())
        with torch.no_grad():
            start, end, gate = self.reader.spans(
                self.passage[passages].float(), tokens, self.question[questions][:, :asked].float(), self.question_tokens[questions][:, :asked]
            )
            return (
                self.reader.likelihood(
                    start, end, gate, torch.from_numpy(found), torch.from_numpy(self.lengths[questions]), torch.from_numpy(self.null[questions]).float()
                )
                .double()
                .numpy()
            )


class MaskedTokenReader(nn.Module):
    """Tokens that were masked in a text, given a passage."""

    def __init__(self, embeddings: torch.Tensor, token_counts: np.ndarray, width: int = 128) -> None:
        """`embeddings` [vocabulary, dim] are the frozen encoder's; `token_counts` [vocabulary] is how often a token was masked in training."""
        super().__init__()
        self.register_buffer("embeddings", embeddings, persistent=False)
        self.interaction = Interaction(embeddings.shape[1], width)
        self.copy = nn.Linear(width, width)
        self.gate = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 1))
        self.words = Words(embeddings, token_counts)

    def project(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return self.interaction.project(states, self.embeddings[tokens])

    def without_passage(self, states: torch.Tensor, places: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """log p(token | text), [n, masks]: the null passage's likelihoods. `states` [n, length, dim], `places` and `targets` [n, masks] say where the
        masks are and what they hide."""
        masked = states.gather(1, places[:, :, None].expand(-1, -1, states.shape[2]))
        return self.words(masked).gather(2, targets[:, :, None])[:, :, 0]

    def forward(
        self,
        passage: torch.Tensor,
        passage_tokens: torch.Tensor,
        text: torch.Tensor,
        text_tokens: torch.Tensor,
        places: torch.Tensor,
        targets: torch.Tensor,
        null: torch.Tensor,
    ) -> torch.Tensor:
        """log p(token | text, passage), [n, masks]."""
        hidden = self.interaction(passage, passage_tokens, text, text_tokens)
        masked = text.gather(1, places[:, :, None].expand(-1, -1, text.shape[2]))
        logits = (self.copy(masked) @ hidden.transpose(1, 2) / math.sqrt(hidden.shape[2])).masked_fill((passage_tokens == 0)[:, None], NEVER).log_softmax(-1)
        gate = self.gate(torch.cat([masked, logits.exp() @ hidden], -1))[:, :, 0]
        copied = logits.masked_fill(passage_tokens[:, None] != targets[:, :, None], NEVER).logsumexp(-1)
        return torch.logaddexp(F.logsigmoid(gate) + copied, F.logsigmoid(-gate) + null)


class MaskedReading:
    """A trained MaskedTokenReader with what it reads: likelihoods [masks] of pairs of a text and a passage, each read once.

    `places` and `targets` are [texts, masks]; a text with fewer masks repeats its first one, and `real` is false there.
    """

    def __init__(self, reader: MaskedTokenReader, texts: Texts, places: np.ndarray, targets: np.ndarray, real: np.ndarray, passages: Texts) -> None:
        self.reader, self.places, self.targets, self.real = reader.eval(), torch.from_numpy(places), torch.from_numpy(targets), real
        with torch.no_grad():
            everything = np.arange(len(texts))
            self.text_tokens, self.text, null = texts.tokens(everything), [], []
            for part in np.array_split(everything, len(everything) // 256 + 1):
                states = texts.states(part)
                self.text.append(reader.project(states, self.text_tokens[part]).half())
                null.append(reader.without_passage(states, self.places[part], self.targets[part]))
            self.text, self.null = torch.cat(self.text), torch.cat(null)
            everything = np.arange(len(passages))
            self.passage_tokens, projected = passages.tokens(everything), []
            progress = Progress("reading passages", len(everything))
            for part in np.array_split(everything, len(everything) // 256 + 1):
                projected.append(reader.project(passages.states(part), self.passage_tokens[part]).half())
                progress(len(part))
            self.passage = torch.cat(projected)
        self.known: dict[tuple[int, int], np.ndarray] = {}
        self.pairs_read = 0

    def read_batch(self, texts: np.ndarray, passages: np.ndarray) -> np.ndarray:
        """[n, k, masks] float64, of n texts given k passages each; -inf for the passage -1, which is none."""
        pairs = sorted({(x, z) for x, row in zip(texts.tolist(), passages.tolist()) for z in row if z >= 0 and (x, z) not in self.known})
        for first in range(0, len(pairs), 256):
            part = np.array(pairs[first : first + 256])
            x, z = part[:, 0], part[:, 1]
            with torch.no_grad():
                values = self.reader(
                    self.passage[z].float(), self.passage_tokens[z], self.text[x].float(), self.text_tokens[x], self.places[x], self.targets[x], self.null[x]
                )
            self.known.update(zip(map(tuple, part.tolist()), values.double().numpy()))
        self.pairs_read += len(pairs)
        nothing = np.full(self.places.shape[1], -np.inf)
        return np.array([[self.known[x, z] if z >= 0 else nothing for z in row] for x, row in zip(texts.tolist(), passages.tolist())])


def readable_questions(
    questions: Sequence[Question], tokens: Tokens, passages: Texts, index_of: dict[str, int]
) -> tuple[list[Question], np.ndarray, np.ndarray]:
    """Questions whose answer stands in the cut passage that they were asked about, their answers' tokens [n, MAX_ANSWER_TOKENS] and how many these are."""
    kept = [question for question in questions if question.passage in index_of]
    ids = [encoding.ids for encoding in tokens.encode([question.answer for question in kept])]
    seen = passages.tokens(np.array([index_of[question.passage] for question in kept], np.int64)).numpy()
    good = [i for i, (answer, row) in enumerate(zip(ids, seen)) if 0 < len(answer) <= MAX_ANSWER_TOKENS and find(row[None], answer, tokens.continues).any()]
    return [kept[i] for i in good], padded([ids[i] for i in good], MAX_ANSWER_TOKENS), np.array([len(ids[i]) for i in good], np.int64)


def _train(
    reader: nn.Module,
    loss_of: Callable[[np.ndarray], torch.Tensor],
    count: int,
    rng: np.random.Generator,
    epochs: int,
    batch: int,
    rate: float,
    log: Any,
) -> None:
    """Minimises loss_of(rows) over batches of `count` rows, each once an epoch: AdamW, a rate that rises for 50 steps and falls to 0."""
    steps = epochs * (count // batch)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 50, (steps - step) / steps))
    progress, mean = Progress("training the reader", steps), 0.0
    order = np.concatenate([rng.permutation(count) for _ in range(epochs)])
    for step in range(steps):
        loss = loss_of(order[step * batch : (step + 1) * batch])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        mean = loss.item() if step == 0 else 0.98 * mean + 0.02 * loss.item()
        progress(1, f"loss {mean:.3f}")
        if log and step % 10 == 0:
            log({"event": "reader", "step": step, "loss": loss.item()})


def train_span_reader(
    questions: Texts,
    answers: np.ndarray,
    lengths: np.ndarray,
    gold: np.ndarray,
    passages: Texts,
    embeddings: torch.Tensor,
    continues: np.ndarray,
    *,
    epochs: int = 2,
    batch: int = 48,
    rate: float = 1.5e-3,
    seed: int = 0,
    log: Any = None,
) -> SpanReader:
    """Trains by maximum likelihood on each question's own passage and as many that the frozen encoder retrieves for it, as a job would show it.

    `gold` [n] is the index of each question's passage in `passages`.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    counts = np.zeros(len(embeddings))
    np.add.at(counts, answers[answers > 0], 1)
    reader = SpanReader(embeddings, counts, np.bincount(lengths, minlength=MAX_ANSWER_TOKENS + 1).astype(np.float64))
    near = np.empty((len(gold), 32), np.int64)
    vectors, asked = passages.vectors(), questions.vectors()
    for part in np.array_split(np.arange(len(gold)), len(gold) // 512 + 1):
        near[part] = np.argpartition(-(asked[part] @ vectors.T), 32, axis=1)[:, :32]

    def loss_of(which: np.ndarray) -> torch.Tensor:
        wrong = near[which, rng.integers(0, 32, len(which))]
        wrong = np.where(rng.random(len(which)) < 0.2, rng.integers(0, len(passages.rows), len(which)), wrong)
        read = np.concatenate([gold[which], wrong])
        question_states, question_tokens = questions.states(which), questions.tokens(which)
        asked_tokens = int((question_tokens > 0).sum(1).max())
        question_states, question_tokens = question_states[:, :asked_tokens], question_tokens[:, :asked_tokens]
        length = torch.from_numpy(lengths[which])
        null = reader.without_passage(question_states, question_tokens, torch.from_numpy(answers[which].astype(np.int64)), length)
        question = reader.project(question_states, question_tokens)
        tokens = passages.tokens(read)
        found = np.concatenate([find(tokens[i : i + 1].numpy(), answers[q][: lengths[q]], continues) for i, q in enumerate(np.concatenate([which, which]))])
        start, end, gate = reader.spans(reader.project(passages.states(read), tokens), tokens, question.repeat(2, 1, 1), question_tokens.repeat(2, 1))
        return -reader.likelihood(start, end, gate, torch.from_numpy(found), length.repeat(2), null.repeat(2)).mean()

    _train(reader, loss_of, len(gold), rng, epochs, batch, rate, log)
    return reader.eval()


def train_masked_token_reader(
    texts: Texts,
    places: np.ndarray,
    targets: np.ndarray,
    real: np.ndarray,
    own: np.ndarray,
    passages: Texts,
    embeddings: torch.Tensor,
    *,
    epochs: int = 2,
    batch: int = 48,
    rate: float = 1.5e-3,
    seed: int = 0,
    log: Any = None,
) -> MaskedTokenReader:
    """Trains by maximum likelihood on passages that the frozen encoder retrieves for each text, less the one that the text came from.

    `own` [n] is the index of that one in `passages`; the other arrays are as MaskedReading's.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    counts = np.zeros(len(embeddings))
    np.add.at(counts, targets[real], 1)
    reader = MaskedTokenReader(embeddings, counts)
    scores = texts.vectors() @ passages.vectors().T
    scores[np.arange(len(own)), own] = -np.inf
    near = np.argpartition(-scores, 16, axis=1)[:, :16]

    def loss_of(which: np.ndarray) -> torch.Tensor:
        read = np.concatenate([near[which, rng.integers(0, 16, len(which))] for _ in range(2)])
        states, tokens = texts.states(which), texts.tokens(which)
        length = int((tokens > 0).sum(1).max())
        states, tokens = states[:, :length], tokens[:, :length]
        place, target = torch.from_numpy(places[which]), torch.from_numpy(targets[which])
        null = reader.without_passage(states, place, target)
        passage_tokens = passages.tokens(read)
        values = reader(
            reader.project(passages.states(read), passage_tokens),
            passage_tokens,
            reader.project(states, tokens).repeat(2, 1, 1),
            tokens.repeat(2, 1),
            place.repeat(2, 1),
            target.repeat(2, 1),
            null.repeat(2, 1),
        )
        return -values[torch.from_numpy(real[which]).repeat(2, 1)].mean()

    _train(reader, loss_of, len(own), rng, epochs, batch, rate, log)
    return reader.eval()


def examine(reading: Reading, gold: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """How well a reader reads questions that it was not trained with."""
    every = np.arange(len(gold))
    own = reading.read_batch(every, gold[:, None])[:, 0]
    other = reading.read_batch(every, rng.integers(0, len(reading.passage_tokens), (len(gold), 1)))[:, 0]
    exact = []
    for part in np.array_split(every, len(every) // 256 + 1):
        with torch.no_grad():
            start, end, _ = reading.reader.spans(
                reading.passage[gold[part]].float(), reading.passage_tokens[gold[part]], reading.question[part].float(), reading.question_tokens[part]
            )
            joint = start[:, :, None] + end[:, None]
            allowed = torch.ones(joint.shape[1:], dtype=torch.bool).triu().tril(MAX_ANSWER_TOKENS - 1)
            best = joint.masked_fill(~allowed, -math.inf).flatten(1).argmax(1).numpy()
        for question, place in zip(part, best):
            first, last = divmod(int(place), joint.shape[2])
            exact.append(reading.passage_tokens[gold[question], first : last + 1].tolist() == reading.answers[question][: reading.lengths[question]].tolist())
    return {
        "questions": len(gold),
        "exact_match": float(np.mean(exact)),
        "own_passage": float(np.median(own)),
        "random_passage": float(np.median(other)),
        "no_passage": float(np.median(reading.null)),
        "own_above_none": float(np.mean(own > reading.null)),
    }


def frozen_encoder(model: pathlib.Path) -> tuple[Any, torch.Tensor]:
    """The checkpoint's last layer as StateCache takes it, and its word embeddings [vocabulary, dim]."""
    encoder = loci.torch.BertEncoder.load(model)
    encoder.requires_grad_(False)
    last: list[torch.Tensor] = []
    encoder.encoder.layer[-1].register_forward_hook(lambda module, inputs, output: last.append(output))

    def encode(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        encoder(ids, mask)
        return last.pop()

    return encode, encoder.embeddings.word_embeddings.weight


@dataclass
class MaskedTexts:
    """Sentences with masked tokens. `rows` are the question cache's, `own` the index of the passage that each is from; the others are [texts, MAX_MASKS], as
    MaskedReading takes them."""

    texts: list[str]
    rows: np.ndarray
    places: np.ndarray
    targets: np.ndarray
    real: np.ndarray
    own: np.ndarray


class Workshop:
    """The data, the frozen encoder and its caches under `work`: what is in common to the recipes."""

    def __init__(self, data: pathlib.Path, model: pathlib.Path, work: pathlib.Path) -> None:
        self.data, self.model = Data(data), model
        self.tokens = Tokens(model)
        self.encode, self.embeddings = frozen_encoder(model)
        dim = self.embeddings.shape[1]
        work = self.work = work / hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()[:16]  # Of this checkpoint alone.
        self.passage_cache = StateCache(work / "passages", self.tokens, self.encode, PASSAGE_TOKENS, dim)
        self.question_cache = StateCache(work / "questions", self.tokens, self.encode, QUESTION_TOKENS, dim)

    def passages(self, ids: Sequence[str]) -> Texts:
        return Texts(self.passage_cache, self.passage_cache.rows([self.data.passages[id].encoded_text() for id in ids], "encoding passages"))

    def questions(self, questions: Sequence[Question]) -> Texts:
        return Texts(self.question_cache, self.question_cache.rows([question.text for question in questions], "encoding questions"))

    def masked_token_reader(self, texts: MaskedTexts, passages: Texts, epochs: int = 2, log: Any = None) -> MaskedTokenReader:
        """Trained on `texts`, each with passages that are not its own; kept in `work`."""
        path = self.work / f"masked_token_reader_{len(texts.own)}_{len(passages)}_{epochs}.pt"
        if path.exists():
            reader = MaskedTokenReader(self.embeddings, np.zeros(len(self.embeddings)))
            reader.load_state_dict(torch.load(path, weights_only=True))
            return reader.eval()
        reader = train_masked_token_reader(
            Texts(self.question_cache, texts.rows), texts.places, texts.targets, texts.real, texts.own, passages, self.embeddings, epochs=epochs, log=log
        )
        torch.save(reader.state_dict(), path)
        return reader

    def masked_texts(self, ids: Sequence[str], count: int, seed: int) -> MaskedTexts:
        """At most `count` sentences of passages `ids`, of one passage at most one, with one salient word of each masked: a name or a number of at most
        MAX_MASKS tokens that stands in another of these passages too."""
        rng = np.random.default_rng(seed)
        cut = [self.tokens.cut(self.data.passages[id]).text for id in ids]
        stands = collections.Counter(word for text in cut for word in set(re.findall(r"\w+", text.lower())))
        texts, own, hidden = [], [], []
        for row in rng.permutation(len(ids)).tolist():
            sentences = [sentence for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", cut[row]) if 40 <= len(sentence) <= 200]
            words = [
                (sentence, match)
                for sentence in sentences
                for match in re.finditer(r"\w+", sentence)
                if (match[0][0].isdigit() or (match[0][0].isupper() and match.start() > 0 and len(match[0]) > 3)) and stands[match[0].lower()] > 1
            ]
            if not words:
                continue
            sentence, match = words[rng.integers(len(words))]
            pieces = self.tokens.encode([match[0]])[0].ids
            if len(pieces) > MAX_MASKS:
                continue
            texts.append(sentence[: match.start()] + " ".join(["[MASK]"] * len(pieces)) + sentence[match.end() :])
            own.append(row)
            hidden.append(pieces)
            if len(texts) == count:
                break
        rows = self.question_cache.rows(texts, "encoding masked sentences")
        tokens = self.question_cache.token_ids[rows]
        whole = [i for i, pieces in enumerate(hidden) if (tokens[i] == self.tokens.mask).sum() == len(pieces)]  # The others were cut before it.
        places = np.zeros((len(whole), MAX_MASKS), np.int64)
        targets = np.zeros((len(whole), MAX_MASKS), np.int64)
        real = np.zeros((len(whole), MAX_MASKS), bool)
        for i, text in enumerate(whole):
            count_here = len(hidden[text])
            places[i], targets[i] = np.flatnonzero(tokens[text] == self.tokens.mask)[0], hidden[text][0]
            places[i, :count_here] = np.flatnonzero(tokens[text] == self.tokens.mask)
            targets[i, :count_here] = hidden[text]
            real[i, :count_here] = True
        return MaskedTexts([texts[i] for i in whole], rows[whole], places, targets, real, np.array(own)[whole])

    def reader_passages(self, count: int) -> list[str]:
        """Of articles that are not held back."""
        return shuffled([id for id in self.data.squad if not self.data.is_held_back(id)], "reader")[:count]

    def span_reader(self, passage_count: int = 6000, epochs: int = 2, log: Any = None) -> SpanReader:
        """Trained on `passage_count` passages of articles that are not held back; kept in `work`."""
        path = self.work / f"span_reader_{passage_count}_{epochs}.pt"
        if path.exists():
            reader = SpanReader(self.embeddings, np.zeros(len(self.embeddings)), np.zeros(MAX_ANSWER_TOKENS + 1))
            reader.load_state_dict(torch.load(path, weights_only=True))
            return reader.eval()
        ids = self.reader_passages(passage_count)
        passages = self.passages(ids)
        index_of = {id: i for i, id in enumerate(ids)}
        questions, answers, lengths = readable_questions(self.data.questions(), self.tokens, passages, index_of)
        gold = np.array([index_of[question.passage] for question in questions])
        reader = train_span_reader(self.questions(questions), answers, lengths, gold, passages, self.embeddings, self.tokens.continues, epochs=epochs, log=log)
        torch.save(reader.state_dict(), path)
        return reader


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains the span reader and prints how well it reads questions of articles that were held back.")
    parser.add_argument("data", type=pathlib.Path, help="folder with passages.jsonl.gz and squad_train/")
    parser.add_argument("--model", type=pathlib.Path, default=pathlib.Path("models/all-MiniLM-L6-v2"))
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for cached states and the reader")
    parser.add_argument("--passages", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--questions", type=int, default=1000, help="that it is examined with")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    workshop = Workshop(args.data, args.model, args.work)
    reader = workshop.span_reader(args.passages, args.epochs)
    ids = [id for id in workshop.data.squad if workshop.data.is_held_back(id)]
    passages = workshop.passages(ids)
    index_of = {id: i for i, id in enumerate(ids)}
    questions, answers, lengths = readable_questions(workshop.data.questions(), workshop.tokens, passages, index_of)
    chosen = np.random.default_rng(0).permutation(len(questions))[: args.questions]
    questions, answers, lengths = [questions[i] for i in chosen], answers[chosen], lengths[chosen]
    began = time.monotonic()
    reading = Reading(reader, workshop.questions(questions), answers, lengths, passages, workshop.tokens.continues)
    result = examine(reading, np.array([index_of[question.passage] for question in questions]), np.random.default_rng(1))
    print(json.dumps(result), f"{reading.pairs_read} pairs in {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()
