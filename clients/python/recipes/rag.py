"""RAG-style training: a query encoder is trained through frozen passages (Lewis et al. 2020), with the truncated and with the exact normaliser.

The last layers of the query encoder begin with new weights (BERT's initialisation), and nothing tells the job which passage a question belongs to:
a frozen span reader's likelihoods of the answer, given each retrieved passage, are the only teacher. Arms differ in the estimator alone; a seed
decides the new weights and the order of the questions, for all arms alike. Recall@10 is of the passage that a question was asked about, for questions
of articles that neither the reader nor the retriever was trained with, in a store that holds those articles' passages and others.

    python rag.py DATA --server HOST:PORT --work FOLDER --output FOLDER
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import loci
import loci.torch
import numpy as np
import torch

from corpus import Progress
from reader import Reading, Workshop, readable_questions
from report import RunLog, add_common_arguments, figure, paired_interval, save_figure
from stores import ingest


class Recipe:
    """The store, the reader and the questions, which all runs share."""

    def __init__(self, args: argparse.Namespace, log: RunLog) -> None:
        self.args = args
        workshop = Workshop(args.data, args.model, args.work)
        held = [id for id in workshop.data.squad if workshop.data.is_held_back(id)]
        self.ids = held + workshop.reader_passages(args.reader_passages)[: max(args.passages - len(held), 0)]
        self.row_of = {id: row for row, id in enumerate(self.ids)}
        passages = workshop.passages(self.ids)
        reader = workshop.span_reader(args.reader_passages, log=log)
        questions, answers, lengths = readable_questions(workshop.data.questions(), workshop.tokens, passages, self.row_of)
        rng = np.random.default_rng(args.seed)
        is_held = np.array([workshop.data.is_held_back(question.passage) for question in questions])
        training = rng.permutation(np.flatnonzero(~is_held))[: args.questions]
        held_back = rng.permutation(np.flatnonzero(is_held))[: args.held_back_questions]
        self.reading = Reading(
            reader, workshop.questions([questions[i] for i in training]), answers[training], lengths[training], passages, workshop.tokens.continues
        )
        self.training = [questions[i].text for i in training]
        self.held_back = [questions[i].text for i in held_back]
        self.gold = [questions[i].passage for i in held_back]
        self.encoder = loci.torch.BertEncoder.load(args.model)
        self.client = loci.Client(args.server)
        ingest(self.client, args.store, workshop, self.ids, passages.vectors())
        print(f"{len(self.ids)} passages, {len(training)} questions to train with, {len(held_back)} of {len(workshop.data.held_back)} held-back articles")

    def fresh_encoder(self, seed: int) -> loci.torch.BertEncoder:
        """The checkpoint, but for its last layers."""
        encoder = copy.deepcopy(self.encoder)
        reinitialise(encoder, self.args.layers, seed)
        encoder.freeze_but_last(self.args.layers)
        return encoder.to(self.args.device)

    def recall(self, encoder: loci.torch.BertEncoder) -> float:
        with torch.no_grad():
            queries = torch.cat([encoder.embed(self.held_back[first : first + 64], "QUERY") for first in range(0, len(self.held_back), 64)]).cpu().numpy()
        results = self.client.search(self.args.store, queries, 10).results
        return float(np.mean([gold in {hit.id for hit in hits} for gold, hits in zip(self.gold, results)]))

    def run(self, estimator: str, seed: int, log: RunLog, progress: Progress) -> dict[str, Any]:
        args = self.args
        encoder = self.fresh_encoder(seed)
        optimizer = torch.optim.AdamW([weight for weight in encoder.parameters() if weight.requires_grad], lr=args.rate, weight_decay=0.01)
        order = np.random.default_rng(seed).permutation(len(self.training))
        curve = []
        with self.client.open_session(args.store) as session:
            for step in range(args.steps + 1):
                if step % args.examine_every == 0 or step == args.steps:
                    curve.append((step, self.recall(encoder)))
                    log({"event": "recall", "estimator": estimator, "seed": seed, "step": step, "recall_at_10": curve[-1][1]})
                if step == args.steps:
                    break
                for group in optimizer.param_groups:
                    group["lr"] = args.rate * min(1.0, (step + 1) / 10, (args.steps - step) / (args.steps / 2))
                batch = order[np.arange(step * args.batch, (step + 1) * args.batch) % len(order)]
                queries = encoder.embed([self.training[i] for i in batch], "QUERY")
                found = loci.torch.retrieve(queries, session, args.top_k, estimator=estimator, temperature=args.temperature, include_text=False)
                rows = np.array([[self.row_of[id] for id in ids] for ids in found.ids])
                likelihoods = self.reading.read_batch(batch, rows)
                if estimator == "EXACT_Z_NULL":
                    likelihoods = np.column_stack([likelihoods, self.reading.null[batch]])
                loss = loci.torch.rag_sequence_loss(found, torch.from_numpy(likelihoods).to(queries))
                optimizer.zero_grad()
                loss.backward()
                gradient = torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0).item()
                optimizer.step()
                log(
                    {
                        "event": "step",
                        "estimator": estimator,
                        "seed": seed,
                        "step": step,
                        "loss": loss.item(),
                        "gradient_norm": gradient,
                        "utility": -loss.item() - float(self.reading.null[batch].mean()),
                        "head_mass": found.head_mass.nanmedian().item(),
                        "pairs_read": self.reading.pairs_read,
                    }
                )
                progress(1, f"{estimator} seed {seed}: loss {loss.item():.2f}, recall@10 {curve[-1][1]:.3f}")
        return {"estimator": estimator, "seed": seed, "curve": curve}


def reinitialise(encoder: loci.torch.BertEncoder, layers: int, seed: int) -> None:
    """Gives the last layers BERT's initial weights: normal with deviation .02, biases 0, norms 1."""
    generator = torch.Generator().manual_seed(seed)
    for layer in list(encoder.encoder.layer)[-layers:]:
        for module in layer.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.data.copy_(torch.randn(module.weight.shape, generator=generator) * 0.02)
                module.bias.data.zero_()
            elif isinstance(module, torch.nn.LayerNorm):
                module.weight.data.fill_(1.0)
                module.bias.data.zero_()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("--store", default="recipe-rag")
    parser.add_argument("--passages", type=int, default=4000, help="in the store, those of held-back articles among them")
    parser.add_argument("--questions", type=int, default=4000, help="that are trained with, at most")
    parser.add_argument("--held-back-questions", type=int, default=500)
    parser.add_argument("--reader-passages", type=int, default=6000, help="that the reader is trained on")
    parser.add_argument("--estimators", nargs="+", default=["TOP_K", "EXACT_Z_NULL"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--temperature", type=float, default=0.05)
    parser.add_argument("--layers", type=int, default=2, help="that begin anew and are trained")
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--examine-every", type=int, default=25, help="steps")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    log = RunLog(args.output, "rag", args)
    recipe = Recipe(args, log)
    whole = recipe.recall(recipe.encoder.to(args.device))
    prepared = log.seconds()
    log({"event": "prepared", "recall_at_10_of_checkpoint": whole})

    runs = []
    progress = Progress("training", args.steps * args.seeds * len(args.estimators))
    for seed in range(args.seed, args.seed + args.seeds):
        for estimator in args.estimators:
            runs.append(recipe.run(estimator, seed, log, progress))

    start = {run["seed"]: run["curve"][0][1] for run in runs}
    end = {(run["estimator"], run["seed"]): run["curve"][-1][1] for run in runs}
    seeds = sorted(start)
    print(
        f"\nrecall@10 on {len(recipe.held_back)} questions of held-back articles; "
        f"the checkpoint before its last {args.layers} layers were given new weights: {whole:.3f}"
    )
    print("| | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean |\n|" + "---|" * (len(seeds) + 2))
    for name, values in [("untrained", [start[seed] for seed in seeds])] + [
        (estimator, [end[estimator, seed] for seed in seeds]) for estimator in args.estimators
    ]:
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + f" | {np.mean(values):.3f} |")
    pairs = [(estimator, "untrained", [end[estimator, seed] - start[seed] for seed in seeds]) for estimator in args.estimators]
    if {"TOP_K", "EXACT_Z_NULL"} <= set(args.estimators):
        pairs.append(("EXACT_Z_NULL", "TOP_K", [end["EXACT_Z_NULL", seed] - end["TOP_K", seed] for seed in seeds]))
    for one, other, differences in pairs:
        mean, low, high = paired_interval(differences)
        print(f"{one} less {other}: {mean:+.3f}, 95 % of the mean [{low:+.3f}, {high:+.3f}] over {len(seeds)} seeds")
        log({"event": "difference", "of": one, "less": other, "mean": mean, "low": low, "high": high, "differences": differences})
    print(
        f"{prepared:.0f} s of preparation, {log.seconds() - prepared:.0f} s of training and examining, "
        f"{recipe.reading.pairs_read} pairs read, torch {torch.__version__} with {args.threads} threads"
    )

    chart, axis = figure(1, 1)
    for at, estimator in enumerate(args.estimators):
        curves = np.array([[value for _, value in run["curve"]] for run in runs if run["estimator"] == estimator])
        steps = [step for step, _ in runs[0]["curve"]]
        axis.plot(steps, curves.T, color=f"C{at}", alpha=0.25, linewidth=1)
        axis.plot(steps, curves.mean(0), "o-", color=f"C{at}", label=f"{estimator}, mean of {len(curves)} seeds")
    axis.axhline(whole, color="gray", linestyle="--", label="the checkpoint, whole")
    axis.set(xlabel=f"step ({args.batch} questions each)", ylabel="recall@10, held-back articles", title="a query encoder trained through frozen passages")
    axis.grid(alpha=0.3)
    axis.legend()
    save_figure(chart, args.output, "rag")
    log.close()


if __name__ == "__main__":
    main()
