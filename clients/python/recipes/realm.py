"""REALM-style training: both encoders learn from masked tokens alone while the store is refreshed in the background (Guu et al. 2020).

Sentences have a name or a number masked; the passage that a sentence is from is left out of its retrieval. A frozen masked-token reader gives
log p(token | sentence, passage) for each retrieved passage and for none, the null passage. The gradient of the marginal goes to the query encoder
through loci.torch.retrieve, and to the passage encoder through the gradients of the hits' vectors: they are encoded again with the weights of now,
while the store has those of its last refresh. The job publishes the passage encoder now and then, trains on in its session while the server re-encodes
the store, and opens a new session when that is done.

Both encoders begin as the checkpoint, and their last layers learn. Arms differ in the estimator alone; a seed decides the order of sentences. The
utility of retrieval is log p(token | sentence) with retrieval less log p(token | sentence) without a passage; it is measured on sentences of
held-back articles, with the vectors that the store serves then. Other clients' searches go on all the time and are counted.

    python realm.py DATA --server HOST:PORT --work FOLDER --output FOLDER
"""

from __future__ import annotations

import argparse
import copy
import threading
import time
from typing import Any

import loci
import loci.torch
import numpy as np
import torch

from corpus import Progress, shuffled
from reader import MaskedReading, Texts, Workshop
from report import RunLog, add_common_arguments, figure, paired_interval, save_figure
from stores import ingest


class Traffic:
    """Another client, that searches a store by texts as long as it is trained, refreshed and swapped."""

    def __init__(self, server: str, store: str, texts: list[str], pause_s: float = 0.5) -> None:
        self._client, self._store, self._texts, self._pause_s = loci.Client(server, retry=loci.RetryPolicy(max_attempts=1)), store, texts, pause_s
        self._searches, self._errors, self._encoders = 0, [], set()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(self._pause_s):
            try:
                result = self._client.search(self._store, self._texts[self._searches % len(self._texts)], 10)
                self._encoders.add(result.encoder_fingerprint)
                if len(result.hits) != 10:
                    self._errors.append(f"{len(result.hits)} hits")
            except loci.LociError as error:
                self._errors.append(str(error))
            self._searches += 1

    def stop(self) -> dict[str, Any]:
        self._stopped.set()
        self._thread.join()
        self._client.close()
        return {"searches": self._searches, "errors": self._errors, "encoders_seen": len(self._encoders)}


class Refresh:
    """A store that follows a passage encoder: what was published last is encoded by the server while training goes on in `session`."""

    def __init__(self, client: loci.Client, store: str, log: RunLog, tags: dict[str, Any]) -> None:
        self._client, self._store, self._log, self._tags = client, store, log, tags
        self._parent = client.server_info().encoders[0].fingerprint
        self.session = client.open_session(store)
        self.running: tuple[str, int, float] | None = None  # Its job, the step that it was begun at, and when.
        self.count = 0

    def publish(self, encoder: loci.torch.BertEncoder, step: int, metrics: dict[str, float]) -> None:
        reply = self._client.publish_encoder(
            encoder.weights(), halves="PASSAGE", store=self._store, parent_fingerprint=self._parent, job_name=f"{self._store} at {step}", metrics=metrics
        )
        self.running = (reply.job, step, time.monotonic())
        self._log({"event": "publish", **self._tags, "step": step, "fingerprint": reply.fingerprint, "job": reply.job})

    def follow(self, step: int, wait: bool) -> None:
        """Goes over to what a refresh that has ended made; with `wait`, waits for it."""
        if self.running is None:
            return
        name, published, began = self.running
        job = self._client.wait_for_job(name, progress=False) if wait else self._client.get_job(name)
        if job.running:
            return
        if job.state != "SUCCEEDED":
            raise RuntimeError(f"the refresh that was begun at step {published} is {job.state}: {job.error_message}")
        self.session.close()
        self.session = self._client.open_session(self._store)
        self.running = None
        self.count += 1
        self._log(
            {
                "event": "refresh",
                **self._tags,
                "published_at_step": published,
                "seen_at_step": step,
                "job_seconds": time.monotonic() - began,
                "generation": self.session.generation,
                "fingerprint": self.session.encoder_fingerprint,
            }
        )


class Recipe:
    """The passages, the reader and the sentences, which all runs share."""

    def __init__(self, args: argparse.Namespace, log: RunLog) -> None:
        self.args = args
        workshop = self.workshop = Workshop(args.data, args.model, args.work)
        articles = workshop.data.articles()
        held = [title for title in shuffled(list(articles), "realm") if title in workshop.data.held_back][: args.held_back_articles]
        others = [title for title in shuffled(list(articles), "realm") if title not in workshop.data.held_back][: args.articles]
        self.ids = [id for title in others + held for id in articles[title]]
        self.row_of = {id: row for row, id in enumerate(self.ids)}
        self.cut = [loci.Passage(cut.id, cut.text, cut.title) for cut in (workshop.tokens.cut(workshop.data.passages[id]) for id in self.ids)]
        self.passages = workshop.passages(self.ids)
        reader_ids = workshop.reader_passages(args.reader_passages)
        reader = workshop.masked_token_reader(
            workshop.masked_texts(reader_ids, args.reader_passages, args.seed), workshop.passages(reader_ids), args.reader_epochs, log
        )
        training = [id for id in self.ids if not workshop.data.is_held_back(id)]
        held_back = [id for id in self.ids if workshop.data.is_held_back(id)]
        self.training = workshop.masked_texts(training, args.sentences, args.seed)
        self.held_back = workshop.masked_texts(held_back, args.held_back_sentences, args.seed)
        self.held_back.own += len(training)
        # One reading for both: the held-back sentences come behind.
        join = [
            np.concatenate(pair)
            for pair in zip(*((texts.rows, texts.places, texts.targets, texts.real, texts.own) for texts in (self.training, self.held_back)))
        ]
        rows, places, targets, self.real, self.own = join
        self.texts = self.training.texts + self.held_back.texts
        self.reading = MaskedReading(reader, Texts(workshop.question_cache, rows), places, targets, self.real, self.passages)
        self.encoder = loci.torch.BertEncoder.load(args.model)
        self.client = loci.Client(args.server, timeout_s=600)
        print(
            f"{len(self.ids)} passages of {len(others)} articles and of {len(held)} that were held back, {len(self.training.texts)} sentences to train with, "
            f"{len(self.held_back.texts)} held back; masked tokens without a passage: {self.reading.null[torch.from_numpy(self.real)].mean():.2f} nats"
        )

    def fresh_encoder(self) -> loci.torch.BertEncoder:
        encoder = copy.deepcopy(self.encoder)
        encoder.freeze_but_last(self.args.layers)
        return encoder.to(self.args.device)

    def likelihoods(self, texts: np.ndarray, ids: list[list[str]]) -> np.ndarray:
        """[texts, k + 1, masks], the null passage's last."""
        found = self.reading.read_batch(texts, np.array([[self.row_of.get(id, -1) for id in row] for row in ids]))
        return np.concatenate([found, self.reading.null[texts].double().numpy()[:, None]], 1)

    def utility(self, queries: loci.torch.BertEncoder, session: loci.Session) -> dict[str, float]:
        """Mean over the masked tokens of the held-back sentences: with the exact normaliser and the null passage, and with the head alone."""
        texts = np.arange(len(self.training.texts), len(self.texts))
        with torch.no_grad():
            vectors = torch.cat([queries.embed([self.texts[i] for i in part], "QUERY") for part in np.array_split(texts, len(texts) // 32 + 1)])
        found = loci.torch.retrieve(
            vectors.cpu(), session, self.args.top_k, temperature=self.args.temperature, exclusions=[[self.ids[self.own[i]]] for i in texts], include_text=False
        )
        values = torch.from_numpy(self.likelihoods(texts, found.ids)).float()
        real = torch.from_numpy(self.real[texts])
        exact = loci.torch.log_marginals(found, values)
        head = torch.logsumexp(found.log_probs.log_softmax(1)[:, :, None] + values[:, :-1], 1)
        return {
            "exact": (exact - values[:, -1])[real].mean().item(),
            "head": (head - values[:, -1])[real].mean().item(),
            "head_mass": found.head_mass.mean().item(),
        }

    def run(self, estimator: str, seed: int, log: RunLog, progress: Progress) -> dict[str, Any]:
        args = self.args
        name = f"{args.store}-{estimator.lower().replace('_', '-')}-{seed}"
        tags = {"estimator": estimator, "seed": seed}
        queries, passages = self.fresh_encoder(), self.fresh_encoder()
        groups = [
            {"params": [weight for weight in encoder.parameters() if weight.requires_grad], "rate": rate}
            for encoder, rate in ((queries, args.rate), (passages, args.passage_rate))
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
        order = np.random.default_rng(seed).permutation(len(self.training.texts))
        ingest(self.client, name, self.workshop, self.ids, self.passages.vectors())
        traffic = Traffic(args.server, name, self.texts[len(self.training.texts) :])
        refresh = Refresh(self.client, name, log, tags)
        curve: list[tuple[int, dict[str, float]]] = []
        losses: list[float] = []
        every = max(args.steps // (args.refreshes + 1), 1)
        for step in range(args.steps + 1):
            due = step > 0 and (step % every == 0 or step == args.steps)
            refresh.follow(step, wait=due)  # Where the server is slower than the steps, they wait for it here.
            if step == args.steps:
                refresh.publish(passages, step, {"loss": float(np.mean(losses[-10:]))})  # What was learned since the last one.
                refresh.follow(step, wait=True)
            if step == 0 or due:
                curve.append((step, self.utility(queries, refresh.session)))
                log({"event": "utility", **tags, "step": step, **curve[-1][1]})
            if step == args.steps:
                break
            if due and refresh.count < args.refreshes:
                refresh.publish(passages, step, {"loss": float(np.mean(losses[-10:]))})
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * min(1.0, (step + 1) / 10, (args.steps - step) / (args.steps / 2))
            losses.append(self.step(estimator, step, order, queries, passages, optimizer, refresh.session, log, tags))
            progress(1, f"{estimator} seed {seed}: loss {np.mean(losses[-10:]):.2f}, {refresh.count} refreshes{', one under way' if refresh.running else ''}")
        refresh.session.close()
        served = traffic.stop()
        log({"event": "served", **tags, **served})
        self.client.delete_store(name, confirm_name=name)
        return {**tags, "curve": curve, "refreshes": refresh.count, **served}

    def step(
        self,
        estimator: str,
        step: int,
        order: np.ndarray,
        queries: loci.torch.BertEncoder,
        passages: loci.torch.BertEncoder,
        optimizer: torch.optim.Optimizer,
        session: loci.Session,
        log: RunLog,
        tags: dict[str, Any],
    ) -> float:
        args = self.args
        batch = order[np.arange(step * args.batch, (step + 1) * args.batch) % len(order)]
        exclusions = [[self.ids[self.own[i]]] for i in batch]
        vectors = queries.embed([self.texts[i] for i in batch], "QUERY")
        found = loci.torch.retrieve(
            vectors, session, args.top_k, estimator=estimator, temperature=args.temperature, exclusions=exclusions, include_text=False, passage_gradients=True
        )
        found.log_weights.retain_grad()
        values = torch.from_numpy(self.likelihoods(batch, found.ids)).to(vectors)
        real = torch.from_numpy(self.real[batch]).to(vectors.device)
        loss = loci.torch.realm_loss(found, values if estimator == "EXACT_Z_NULL" else values[:, :-1], real)
        optimizer.zero_grad()
        loss.backward()

        rows = np.array([[self.row_of[id] for id in ids] for ids in found.ids]).ravel()
        gradients = found.vectors.grad.flatten(0, 1)
        if estimator == "EXACT_Z_NULL":
            # The head's gradients pull all in all; it is the tail's that push. Its passages' sum is known, and draws from it stand for them:
            # d loss/ds_j = (g_null / (1 - P_T) - sum g) p_j for a passage j outside the head.
            weights = found.log_weights.grad
            pull = weights[:, -1] - weights.sum(1) * found.log_null_prob.detach().exp()
            drawn = session.retrieve(
                vectors.detach().cpu().numpy(),
                args.top_k,
                estimator="EXACT_Z_TAIL",
                temperature=args.temperature,
                tail_samples=args.tail_passages,
                seed=step,
                exclusions=exclusions,
            )
            rows = np.concatenate([rows, [self.row_of[id] for ids in drawn.tail_ids for id in ids]])
            of_draws = (pull / args.tail_passages / args.temperature)[:, None] * vectors.detach()
            gradients = torch.cat([gradients, of_draws.repeat_interleave(args.tail_passages, 0)])
        names, of = np.unique(rows, return_inverse=True)
        gradients = torch.zeros(len(names), vectors.shape[1], device=vectors.device).index_add_(0, torch.from_numpy(of).to(vectors.device), gradients)
        norms = gradients.norm(dim=1)
        largest = norms.topk(min(args.passages_per_step, len(names))).indices
        encoded = passages.embed([self.cut[names[i]] for i in largest.tolist()])
        (encoded * gradients[largest]).sum().backward()
        clipped = [torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0).item() for encoder in (queries, passages)]
        optimizer.step()
        staleness = found.staleness
        log(
            {
                "event": "step",
                **tags,
                "step": step,
                "loss": loss.item(),
                "utility": -loss.item() - values[:, -1][real].mean().item(),
                "head_mass": found.head_mass.nanmean().item(),
                "gradient_norms": clipped,
                "gradient_share_kept": (norms[largest].sum() / norms.sum().clamp(min=1e-30)).item(),
                "generation": session.generation,
                "age_ms": staleness.age_ms,
                "drift": staleness.drift,
                "drift_sample_count": staleness.drift_sample_count,
            }
        )
        return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("--store", default="recipe-realm", help="stores are named after it, one a run, and deleted after it")
    parser.add_argument("--articles", type=int, default=20)
    parser.add_argument("--held-back-articles", type=int, default=6)
    parser.add_argument("--sentences", type=int, default=800, help="that are trained with, at most")
    parser.add_argument("--held-back-sentences", type=int, default=128)
    parser.add_argument("--reader-passages", type=int, default=6000, help="that the reader is trained on")
    parser.add_argument("--reader-epochs", type=int, default=2)
    parser.add_argument("--estimators", nargs="+", default=["TOP_K", "EXACT_Z_NULL"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--refreshes", type=int, default=3, help="while it trains; one more at the end")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--top-k", type=int, default=8)
    parser.add_argument("--passages-per-step", type=int, default=24, help="that are encoded again: those with the largest gradients")
    parser.add_argument("--tail-passages", type=int, default=1, help="a sentence's draws from outside the head, for the passage encoder")
    parser.add_argument("--temperature", type=float, default=0.05)
    parser.add_argument("--layers", type=int, default=2, help="of both encoders, that are trained")
    parser.add_argument("--rate", type=float, default=5e-5, help="of the query encoder")
    parser.add_argument("--passage-rate", type=float, default=1e-5, help="of the passage encoder: what it learns is seen after a refresh only")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    log = RunLog(args.output, "realm", args)
    recipe = Recipe(args, log)
    prepared = log.seconds()
    runs = []
    progress = Progress("training", args.steps * args.seeds * len(args.estimators))
    for seed in range(args.seed, args.seed + args.seeds):
        for estimator in args.estimators:
            runs.append(recipe.run(estimator, seed, log, progress))

    of = {(run["estimator"], run["seed"]): run for run in runs}
    seeds = sorted({run["seed"] for run in runs})
    print(
        f"\nutility on {len(recipe.held_back.texts)} sentences of held-back articles, nats a masked token: "
        "with the exact normaliser and the null passage / with the head alone"
    )
    print("| | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean | refreshes |\n|" + "---|" * (len(seeds) + 3))
    for estimator in args.estimators:
        for at, title in ((0, "checkpoint"), (-1, estimator)):
            values = [of[estimator, seed]["curve"][at][1] for seed in seeds]
            count = sum(of[estimator, seed]["refreshes"] for seed in seeds) if at else ""
            print(
                f"| {title} | "
                + " | ".join(f"{value['exact']:.3f} / {value['head']:.3f}" for value in values)
                + f" | {np.mean([value['exact'] for value in values]):.3f} / {np.mean([value['head'] for value in values]):.3f} | {count} |"
            )
    for measure in ("exact", "head"):
        end = {key: run["curve"][-1][1][measure] for key, run in of.items()}
        start = {key: run["curve"][0][1][measure] for key, run in of.items()}
        pairs = [(estimator, "checkpoint", [end[estimator, seed] - start[estimator, seed] for seed in seeds]) for estimator in args.estimators]
        if {"TOP_K", "EXACT_Z_NULL"} <= set(args.estimators):
            pairs.append(("EXACT_Z_NULL", "TOP_K", [end["EXACT_Z_NULL", seed] - end["TOP_K", seed] for seed in seeds]))
        for one, other, differences in pairs:
            mean, low, high = paired_interval(differences)
            print(f"utility ({measure}), {one} less {other}: {mean:+.3f}, 95 % of the mean [{low:+.3f}, {high:+.3f}] over {len(seeds)} seeds")
            log({"event": "difference", "measure": measure, "of": one, "less": other, "mean": mean, "low": low, "high": high, "differences": differences})
    print(
        f"{sum(run['searches'] for run in runs)} searches by another client meanwhile, {sum(len(run['errors']) for run in runs)} errors; "
        f"{min(run['refreshes'] for run in runs)} refreshes or more in every run"
    )
    print(f"{prepared:.0f} s of preparation, {log.seconds() - prepared:.0f} s of training and examining, torch {torch.__version__} with {args.threads} threads")

    chart, axes = figure(1, 2)
    for axis, measure, title in zip(axes, ("exact", "head"), ("exact normaliser, null passage", "head alone")):
        for at, estimator in enumerate(args.estimators):
            curves = np.array([[value[measure] for _, value in of[estimator, seed]["curve"]] for seed in seeds])
            steps = [step for step, _ in runs[0]["curve"]]
            axis.plot(steps, curves.T, color=f"C{at}", alpha=0.25, linewidth=1)
            axis.plot(steps, curves.mean(0), "o-", color=f"C{at}", label=f"{estimator}, mean of {len(seeds)} seeds")
        axis.set(xlabel=f"step ({args.batch} sentences each)", title=title)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("utility of retrieval, nats a masked token")
    axes[0].legend()
    save_figure(chart, args.output, "realm")
    log.close()


if __name__ == "__main__":
    main()
