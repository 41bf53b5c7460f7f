#!/usr/bin/env python3
"""Fits and measures the sentence reader's confidence on questions of which half have lost their gold passages.

usage: calibrate_sentence_reader.py --features BINARY --model DIR --data DIR [--work DIR] [--plot FILE.png]

DIR of --data holds squad_train (corpus.jsonl.gz, qas.jsonl.gz) and the collections stackfaq, covidfaq and wikiqa_dev
(corpus.jsonl.gz, queries.jsonl.gz, qrels.tsv.gz). Every second question of a set is searched as if its gold passages had been
deleted. An answer is right where its sentence holds the gold answer's text (SQuAD), or stands in a gold passage (the others);
so it is always wrong for a deleted question of the others.

Of SQuAD every tenth article by title (44 of 442) is taken, and every fourth question of those. The weights are fitted on the first
half of these articles and on stackfaq; the other half, covidfaq and wikiqa_dev are held out. Two steps: a logistic regression on
all sentences, each question weighing the same, says which sentence is best; then scale and bias are fitted on the best sentences
alone, so that the confidence of the answer given is a probability. Needs numpy; --plot needs matplotlib.
"""

import argparse
import gzip
import json
import pathlib
import subprocess
import tempfile

import numpy as np

FEATURES = ("cosine", "margin", "overlap")
COSINE_ALONE = (1.0,)
MAX_RISK = 1 / 3  # The threshold is the least with at most this share of wrong answers on each set of the fit.


def read_jsonl(path: pathlib.Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def squad_sets(data: pathlib.Path) -> dict[str, tuple[list[dict], list[dict]]]:
    """One corpus of 44 articles; its questions in two halves by article."""
    corpus = read_jsonl(data / "squad_train" / "corpus.jsonl.gz")
    titles = sorted({passage["title"] for passage in corpus})[::10][:44]
    corpus = [passage for passage in corpus if passage["title"] in set(titles)]
    title_of = {passage["id"]: passage["title"] for passage in corpus}
    questions = [qa for qa in read_jsonl(data / "squad_train" / "qas.jsonl.gz") if qa["pid"] in title_of][::4]
    halves = {"squad, fitted": set(titles[:22]), "squad": set(titles[22:])}
    return {
        name: (corpus, [{"id": qa["id"], "text": qa["question"], "gold": [qa["pid"]], "answers": [a["text"] for a in qa["answers"]]}
                        for qa in questions if title_of[qa["pid"]] in half])
        for name, half in halves.items()
    }


def judged_set(folder: pathlib.Path) -> tuple[list[dict], list[dict]]:
    gold: dict[str, list[str]] = {}
    with gzip.open(folder / "qrels.tsv.gz", "rt", encoding="utf-8") as file:
        next(file)
        for line in file:
            query, passage, grade = line.split()
            if int(grade) > 0:
                gold.setdefault(query, []).append(passage)
    questions = [{**query, "gold": gold[query["id"]], "answers": []} for query in read_jsonl(folder / "queries.jsonl.gz")
                 if query["id"] in gold]
    return read_jsonl(folder / "corpus.jsonl.gz"), questions


def write_jsonl(path: pathlib.Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def features_of(args: argparse.Namespace, work: pathlib.Path, sets: dict[str, tuple[list[dict], list[dict]]]) -> dict[str, list[dict]]:
    """Runs the binary once a corpus; results that `work` already holds are used again."""
    result: dict[str, list[dict]] = {}
    by_corpus: dict[int, list[str]] = {}
    for name, (corpus, _) in sets.items():
        by_corpus.setdefault(id(corpus), []).append(name)
    for names in by_corpus.values():
        stem = names[-1]
        questions = [{**question, "deleted": i % 2 == 1} for name in names for i, question in enumerate(sets[name][1])]
        output = work / f"{stem}.features.jsonl"
        if not output.exists():
            write_jsonl(work / f"{stem}.corpus.jsonl", sets[stem][0])
            write_jsonl(work / f"{stem}.questions.jsonl", questions)
            partial = output.with_suffix(".partial")
            with partial.open("w") as file:
                subprocess.run([args.features, args.model, work / f"{stem}.corpus.jsonl", work / f"{stem}.questions.jsonl"], stdout=file,
                               check=True)
            partial.rename(output)
        lines = [json.loads(line) for line in output.open(encoding="utf-8")]
        for name in names:
            result[name], lines = lines[:len(sets[name][1])], lines[len(sets[name][1]):]
    return result


def fit_logistic(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """[bias, weights...] by Newton's method, with a slight ridge."""
    x = np.c_[np.ones(len(x)), x]
    solution = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ solution))
        gradient = x.T @ (weight * (p - y)) + 1e-6 * solution
        hessian = (x * (weight * p * (1 - p))[:, None]).T @ x + 1e-6 * np.eye(x.shape[1])
        solution -= np.linalg.solve(hessian, gradient)
    return solution


def best_sentences(questions: list[dict], weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logit (without bias) and rightness of the sentence chosen for each question; -inf where there is none."""
    logits, right = np.full(len(questions), -np.inf), np.zeros(len(questions), bool)
    for i, question in enumerate(questions):
        if question["sentences"]:
            rows = np.array(question["sentences"])
            values = rows[:, :len(weights)] @ weights
            best = int(np.argmax(values))
            logits[i], right[i] = values[best], rows[best, -1] > 0
    return logits, right


def auroc(positive: np.ndarray, score: np.ndarray) -> float:
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n1, n0 = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", required=True, help="the binary //tests/calibration:sentence_reader_features")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path, help="keeps the features here, and uses those that are there")
    parser.add_argument("--plot")
    args = parser.parse_args()

    sets = squad_sets(args.data)
    for name in ("stackfaq", "covidfaq", "wikiqa_dev"):
        sets[name] = judged_set(args.data / name)
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or pathlib.Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        questions = features_of(args, work, sets)

    fitted = ["squad, fitted", "stackfaq"]
    rows, labels, weight = [], [], []
    for name in fitted:
        for question in questions[name]:
            for row in question["sentences"]:
                rows.append(row[:len(FEATURES)])
                labels.append(row[-1])
                weight.append(1 / len(question["sentences"]) / len(questions[name]))
    ranking = fit_logistic(np.array(rows), np.array(labels, float), np.array(weight))[1:]
    logits, right, weight = [], [], []
    for name in fitted:
        z, r = best_sentences(questions[name], ranking)
        keep = np.isfinite(z)
        logits.append(z[keep]), right.append(r[keep]), weight.append(np.full(keep.sum(), 1 / keep.sum()))
    bias, scale = fit_logistic(np.concatenate(logits)[:, None], np.concatenate(right).astype(float), np.concatenate(weight))
    # Rounded as they stand in sentence_reader.h: what follows is measured with these.
    bias, weights = round(float(bias), 2), np.round(scale * ranking, 2)
    print("logit = " + " ".join([f"{bias:.2f}"] + [f"{w:+.2f} * {name}" for w, name in zip(weights, FEATURES)]))

    chosen = {}
    for name in questions:
        z, r = best_sentences(questions[name], weights)
        chosen[name] = (1 / (1 + np.exp(-(z + bias))), r)
    thresholds = []
    for name in fitted:
        confidence, right = chosen[name]
        order = np.argsort(-confidence)
        risk = 1 - np.cumsum(right[order]) / np.arange(1, len(order) + 1)
        thresholds.append(confidence[order][np.flatnonzero(risk <= MAX_RISK)[-1]])
    threshold = float(np.ceil(max(thresholds) * 100) / 100)
    print(f"threshold {threshold:.2f}: at most {MAX_RISK:.3f} of the answers wrong on each of {' and '.join(fitted)}\n")

    print("accuracy: right among questions that kept their gold passage, whatever the confidence; cosine: the same where the sentence of\n"
          "the highest cosine is taken. coverage: answered at the threshold. risk: wrong among those answered, of the questions of which half\n"
          "have no gold passage. conf.: mean confidence; where it is a probability, 1 minus it is the risk at coverage 100%.")
    print(f"{'set':<14} {'held out':<8} {'questions':>9} {'cosine':>8} {'accuracy':>8} {'AUROC':>6} {'coverage':>8} {'risk':>6} {'conf.':>6} "
          "risk at coverage  10%    20%    30%    40%    50%   100%")
    for name, (confidence, right) in chosen.items():
        kept = np.array([not question["deleted"] for question in questions[name]])
        _, by_cosine = best_sentences(questions[name], np.array(COSINE_ALONE))
        order = np.argsort(-confidence, kind="stable")
        risk = 1 - np.cumsum(right[order]) / np.arange(1, len(order) + 1)
        answered = confidence >= threshold
        at = " ".join(f"{risk[max(int(round(c * len(risk))) - 1, 0)]:6.3f}" for c in (0.1, 0.2, 0.3, 0.4, 0.5, 1))
        print(f"{name:<14} {'no' if name in fitted else 'yes':<8} {len(right):>9} {by_cosine[kept].mean():>8.3f} {right[kept].mean():>8.3f} "
              f"{auroc(right, confidence):>6.3f} {answered.mean():>8.3f} {(~right[answered]).mean() if answered.any() else 0:>6.3f} {confidence.mean():>6.3f} "
              f"{'':>16} {at}")
    if args.plot:
        import matplotlib  # noqa: PLC0415 - optional
        matplotlib.use("Agg")
        import matplotlib.pyplot as plt  # noqa: PLC0415
        for name, (confidence, right) in chosen.items():
            order = np.argsort(-confidence, kind="stable")
            plt.plot(np.arange(1, len(order) + 1) / len(order), 1 - np.cumsum(right[order]) / np.arange(1, len(order) + 1), label=name)
        plt.xlabel("coverage"), plt.ylabel("risk"), plt.legend(), plt.savefig(args.plot, dpi=120)


if __name__ == "__main__":
    main()
