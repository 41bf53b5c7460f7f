"""How far each estimator's gradient of the query vector is from the truth, on real vectors and with a real reader's likelihoods.

A live server's store is asked: heads come from its Retrieve, estimates from its Backward. The truth, in float64 with NumPy, is
dJ/dq = (E_r[z] - E_p[z]) / temperature over all passages, of the vectors that the server holds. Two readers (reader.py), each of which shows another side:

    span    questions of held-back articles; a few passages have the answer, the others next to nothing: what is outside the head seldom matters
    masked  sentences of held-back articles with a masked name or number, their own passages left out: every passage's likelihood counts

For the truth a question's passages are read by falling p until those not read weigh less than --bound of what p(y) has already, at every
temperature. Their weight is at most sum p_j u_j, where u_j is 1 for a passage in which the answer stands (those are read first) and the null passage's
likelihood for any other: the reader gives such a passage (1 - g) times that.

    python estimator_table.py DATA --server HOST:PORT --work FOLDER --output FOLDER
"""

from __future__ import annotations

import argparse
from typing import Any

import loci
import numpy as np
import torch

from corpus import Progress, find, shuffled
from reader import MaskedReading, Reading, Texts, Workshop, readable_questions
from report import RunLog, add_common_arguments, figure, save_figure
from stores import ingest

ROUNDING = 1e-12  # Of float64, in the vectors' unit: where a certificate is smaller than this it can't be told.


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def log_mean(values: np.ndarray) -> np.ndarray:
    """log of the mean of exp, over the last axis; -inf where all are."""
    top = values.max(-1)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return safe + np.log(np.exp(values - safe[..., None]).mean(-1))


def figures(errors: Any) -> str:
    return " / ".join(f"{value:.3f}" if value >= 0.0005 else f"{value:.0e}" for value in (np.median(errors), np.percentile(errors, 90)))


class SpanQuestions:
    """What is asked, in `queries` [questions, dim], and its answers' likelihoods; `null` [questions] is that of no passage."""

    def __init__(self, workshop: Workshop, held: list[str], passages: Texts, args: argparse.Namespace, log: RunLog) -> None:
        reader = workshop.span_reader(args.reader_passages, log=log)
        questions, answers, lengths = readable_questions(workshop.data.questions(), workshop.tokens, passages, {id: i for i, id in enumerate(held)})
        chosen = np.random.default_rng(args.seed).permutation(len(questions))[: args.questions]
        asked = workshop.questions([questions[i] for i in chosen])
        self.reading = Reading(reader, asked, answers[chosen], lengths[chosen], passages, workshop.tokens.continues)
        self.queries, self.null = asked.vectors().astype(np.float64), self.reading.null
        self.own: list[int] | None = None

    def read(self, question: int, passages: np.ndarray) -> np.ndarray:
        return self.reading.read_batch(np.array([question]), passages[None])[0]

    def read_batch(self, passages: np.ndarray) -> np.ndarray:
        return self.reading.read_batch(np.arange(len(self.null)), passages)

    def highest(self, question: int) -> np.ndarray:
        """[passages]: the log-likelihood is at most this."""
        answer = self.reading.answers[question][: self.reading.lengths[question]]
        return np.where(find(self.reading.passage_tokens.numpy(), answer, self.reading.continues).any(1), 0.0, self.null[question])


class MaskedSentences:
    """As SpanQuestions, of sentences with a masked word; `own` are the passages that they are from."""

    def __init__(self, workshop: Workshop, held: list[str], passages: Texts, args: argparse.Namespace, log: RunLog) -> None:
        reader_ids = workshop.reader_passages(args.reader_passages)
        reader = workshop.masked_token_reader(workshop.masked_texts(reader_ids, args.reader_passages, 0), workshop.passages(reader_ids), log=log)
        texts = workshop.masked_texts(held, args.questions, args.seed)
        asked = Texts(workshop.question_cache, texts.rows)
        self.reading = MaskedReading(reader, asked, texts.places, texts.targets, texts.real, passages)
        self.real, self.own = texts.real, texts.own.tolist()
        self.queries = asked.vectors().astype(np.float64)
        self.null = self._sum(self.reading.null.double().numpy(), np.arange(len(self.real)))

    def _sum(self, values: np.ndarray, questions: np.ndarray) -> np.ndarray:
        """Of the word's tokens: [n, ..., masks] -> [n, ...]."""
        real = self.real[questions]
        return np.where(real.reshape(len(real), *[1] * (values.ndim - 2), -1), values, 0.0).sum(-1)

    def read(self, question: int, passages: np.ndarray) -> np.ndarray:
        return self._sum(self.reading.read_batch(np.array([question]), passages[None]), np.array([question]))[0]

    def read_batch(self, passages: np.ndarray) -> np.ndarray:
        everyone = np.arange(len(self.null))
        return self._sum(self.reading.read_batch(everyone, passages), everyone)

    def highest(self, question: int) -> np.ndarray:
        tokens, null = self.reading.passage_tokens.numpy(), self.reading.null[question].double().numpy()
        bound = np.zeros(len(tokens))
        for place in np.flatnonzero(self.real[question]):
            bound += np.where((tokens == self.reading.targets[question, place].item()).any(1), 0.0, null[place])
        return bound


class Truth:
    """dJ/dq of one question at every temperature, [temperatures, dim] float64."""

    def __init__(self, cases: SpanQuestions | MaskedSentences, question: int, vectors: np.ndarray, temperatures: list[float], bound: float) -> None:
        scores = vectors @ cases.queries[question]
        if cases.own is not None:
            scores[cases.own[question]] = -np.inf
        prior = np.stack([softmax(scores / temperature) for temperature in temperatures])
        highest = np.exp(cases.highest(question))
        order = np.lexsort((-scores, highest <= np.exp(cases.null[question])))
        if cases.own is not None:
            order = order[order != cases.own[question]]
        self.read_count = 0
        likelihood = np.zeros(len(scores))
        while True:
            part = order[self.read_count : self.read_count + 512]
            likelihood[part] = np.exp(cases.read(question, part))
            self.read_count += len(part)
            rest = order[self.read_count :]
            self.bounds = (prior[:, rest] @ highest[rest]) / (prior @ likelihood)
            if not len(rest) or self.bounds.max() < bound:
                break
        posterior = prior * likelihood
        posterior /= posterior.sum(1, keepdims=True)
        self.gradients = ((posterior - prior) @ vectors) / np.array(temperatures)[:, None]


class Judge:
    """Holds estimates at one temperature to `truth` [questions, dim]; `rows` are its findings."""

    def __init__(
        self,
        session: loci.Session,
        cases: SpanQuestions | MaskedSentences,
        row_of: dict[str, int],
        exclusions: list[list[str]] | None,
        temperature: float,
        truth: np.ndarray,
        seed: int,
    ) -> None:
        self.session, self.cases, self.row_of, self.exclusions = session, cases, row_of, exclusions
        self.temperature, self.truth, self.seed = temperature, truth, seed
        self.rows: list[dict[str, Any]] = []

    def retrieve(self, estimator: str, top_k: int, tail_samples: int = 0) -> loci.Retrieval:
        return self.session.retrieve(
            self.cases.queries, top_k, estimator=estimator, temperature=self.temperature, tail_samples=tail_samples, seed=self.seed, exclusions=self.exclusions
        )

    def likelihoods(self, ids: list[list[str]]) -> np.ndarray:
        return self.cases.read_batch(np.array([[self.row_of[id] for id in row] for row in ids]))

    def __call__(self, name: str, retrieval: loci.Retrieval, log_likelihoods: np.ndarray) -> None:
        estimate = self.session.backward(retrieval, log_likelihoods, dtype=np.float64, max_log_likelihood=0.0)
        error = np.linalg.norm(estimate.query_gradients - self.truth, axis=1)
        norm = np.linalg.norm(self.truth, axis=1)
        self.rows.append(
            {
                "estimator": name,
                "error": (error / norm).tolist(),
                "error_of_all": float(np.linalg.norm(error) / np.linalg.norm(norm)),
                "truth_norm": norm.tolist(),
                "certificate": estimate.certificates.tolist(),
                "below_certificate": float(np.mean(error <= estimate.certificates + ROUNDING / self.temperature)),
            }
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("--store", default="estimator-table")
    parser.add_argument("--reader", choices=("span", "masked"), default="span")
    parser.add_argument("--reader-passages", type=int, default=6000, help="that the reader is trained on")
    parser.add_argument("--passages", type=int, default=10000, help="of passages.jsonl.gz in the store, those of held-back articles among them")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.02, 0.03, 0.04, 0.05, 0.07, 0.09, 0.14])
    parser.add_argument("--draws", type=int, default=8, help="from the tail, for EXACT_Z_TAIL and to calibrate the null passage")
    parser.add_argument("--bound", type=float, default=1e-3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    log = RunLog(args.output, f"estimator_table_{args.reader}", args)

    workshop = Workshop(args.data, args.model, args.work)
    held = [id for id in workshop.data.squad if workshop.data.is_held_back(id)]
    ids = held + shuffled([id for id in workshop.data.passages if not workshop.data.is_held_back(id)], "table")[: args.passages - len(held)]
    passages = workshop.passages(ids)
    cases = (SpanQuestions if args.reader == "span" else MaskedSentences)(workshop, held, passages, args, log)
    count, k, draws = len(cases.null), 8, args.draws
    exclusions = None if cases.own is None else [[ids[row]] for row in cases.own]

    client = loci.Client(args.server)
    ingest(client, args.store, workshop, ids, passages.vectors())
    # What the server scores with, in its own element type.
    vectors = np.concatenate(
        [client.get_passages(args.store, ids[first : first + 1000], include_vectors=True).vectors for first in range(0, len(ids), 1000)]
    ).astype(np.float64)
    row_of = {id: row for row, id in enumerate(ids)}

    progress = Progress("the truth", count)
    truths = []
    for question in range(count):
        truths.append(Truth(cases, question, vectors, args.temperatures, args.bound))
        progress(1, f"{truths[-1].read_count} passages read")
    bounds, read = np.stack([truth.bounds for truth in truths]), np.array([truth.read_count for truth in truths])
    print(
        f"{count} {'questions' if args.reader == 'span' else 'sentences'} of {len(workshop.data.held_back)} held-back articles, {len(ids)} passages; "
        f"read for the truth: median "
        f"{int(np.median(read))}, most {read.max()}; what was not read weighs at most {bounds.max():.1e} of p(y), median {np.median(bounds):.1e}"
    )

    results: list[dict[str, Any]] = []
    with client.open_session(args.store) as session:
        for at, temperature in enumerate(args.temperatures):
            judge = Judge(session, cases, row_of, exclusions, temperature, np.stack([truth.gradients[at] for truth in truths]), args.seed)
            null = judge.retrieve("EXACT_Z_NULL", k)
            head = judge.likelihoods(null.ids)
            for many in (k, 50):
                top = judge.retrieve("TOP_K", many)
                judge(f"TOP_K {many}", top, judge.likelihoods(top.ids))
            judge(f"EXACT_Z {k}", judge.retrieve("EXACT_Z", k), head)
            judge(f"EXACT_Z_NULL {k}", null, np.column_stack([head, cases.null]))
            for count_drawn in (draws, 4 * draws):
                tail = judge.retrieve("EXACT_Z_TAIL", k, count_drawn)
                drawn = judge.likelihoods(tail.tail_ids)
                if count_drawn == draws:
                    judge(f"EXACT_Z_NULL {k}, calibrated", null, np.column_stack([head, log_mean(drawn)]))
                judge(f"EXACT_Z_TAIL {k}, {count_drawn} draws", tail, np.column_stack([judge.likelihoods(tail.ids), drawn]))
            results += [{"temperature": temperature, "head_mass": null.head_mass.tolist(), **row} for row in judge.rows]

    for row in results:
        log({"event": "errors", **row})
    names = list(dict.fromkeys(row["estimator"] for row in results))
    print(f"\nrelative L2 error of dJ/dq, median / 90th percentile over {count} questions")
    print("| temperature | mass of top-8 (median) | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 2))
    table = {(row["temperature"], row["estimator"]): row for row in results}
    for temperature in args.temperatures:
        rows = [table[temperature, name] for name in names]
        cells = [figures(row["error"]) for row in rows]
        print(f"| {temperature:g} | {np.median(rows[0]['head_mass']):.3f} | " + " | ".join(cells) + " |")
    print("\nof these, where the head's mass is at least .5\n| temperature | questions | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 2))
    heavy = {key: np.array(row["error"])[np.array(row["head_mass"]) >= 0.5] for key, row in table.items()}
    for temperature in args.temperatures:
        if len(heavy[temperature, names[0]]) > 1:
            print(f"| {temperature:g} | {len(heavy[temperature, names[0]])} | " + " | ".join(figures(heavy[temperature, name]) for name in names) + " |")
    pooled = {name: np.concatenate([heavy[temperature, name] for temperature in args.temperatures]) for name in names}
    print(f"| all | {len(pooled[names[0]])} | " + " | ".join(map(figures, pooled.values())) + " |")
    print("\nrelative L2 error of all questions' gradients as one vector\n| temperature | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 1))
    for temperature in args.temperatures:
        print(f"| {temperature:g} | " + " | ".join(f"{table[temperature, name]['error_of_all']:.3f}" for name in names) + " |")
    below = min(row["below_certificate"] for row in results)
    print(f"\nerrors that are at most the server's certificate: {below:.3f} of them, in the row where fewest are")
    log(
        {
            "event": "pooled",
            "errors": {
                name: {"median": float(np.median(values)), "p90": float(np.percentile(values, 90)), "count": len(values)} for name, values in pooled.items()
            },
        }
    )

    chart, axes = figure(1, 2, sharey=True)
    for axis, percentile, title in zip(axes, (50, 90), ("median", "90th percentile")):
        for name in names:
            rows = [table[temperature, name] for temperature in args.temperatures]
            axis.plot([np.median(row["head_mass"]) for row in rows], [np.percentile(row["error"], percentile) for row in rows], "o-", label=name)
        axis.set(xlabel="median mass of the top 8", yscale="log", title=f"{title} of {count} questions")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("relative L2 error of dJ/dq")
    axes[1].legend(fontsize=7)
    save_figure(chart, args.output, f"estimator_table_{args.reader}")
    log.close()


if __name__ == "__main__":
    main()
