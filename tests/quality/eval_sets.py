#!/usr/bin/env python3
"""Measures retrieval quality on judged collections, through a running server and the `loci` command.

usage: eval_sets.py --server BINARY --cli BINARY --model DIR --data DIR [--sets cisi,medline,stackfaq,covidfaq] [--index SPEC]
                    [--encoder-precision auto|int8]

DIR of --data holds a folder a collection with corpus.jsonl.gz, queries.jsonl.gz and qrels.tsv.gz. Prints nDCG@10 beside the reference
(all-MiniLM-L6-v2 in fp32 by sentence-transformers' recipe, mean pooling, 256 tokens, "title text") and exits 1 where they
differ by more than --tolerance.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

# nDCG@10 of the same checkpoint in fp32, computed outside of this project.
REFERENCE_NDCG_AT_10 = {"cisi": 0.421, "medline": 0.788, "stackfaq": 0.957, "covidfaq": 0.761}


def first_existing(folder: pathlib.Path, *names: str) -> str:
    for name in names:
        if (folder / name).exists():
            return str(folder / name)
    sys.exit(f"{folder} has none of {', '.join(names)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True)
    parser.add_argument("--cli", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--sets", default=",".join(REFERENCE_NDCG_AT_10))
    parser.add_argument("--index", default="exact")
    parser.add_argument("--encoder-precision", default="auto", choices=["auto", "int8"])
    parser.add_argument("--tolerance", type=float, default=0.005)
    args = parser.parse_args()

    failed = False
    with tempfile.TemporaryDirectory() as data_dir:
        server = subprocess.Popen(
            [args.server, "--data-dir", data_dir, "--model", args.model, "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            address = next(line.split()[-1] for line in server.stdout if line.startswith("listening on"))
            cli = [args.cli, "--server", address]
            print(f"{'set':<10} {'queries':>7} {'nDCG@10':>8} {'reference':>9} {'difference':>10} {'recall@100':>10}")
            for name in args.sets.split(","):
                folder = args.data / name
                subprocess.run([*cli, "create", "store", name, "--encoder-precision", args.encoder_precision], check=True, stdout=subprocess.DEVNULL)
                subprocess.run([*cli, "ingest", name, first_existing(folder, "corpus.jsonl.gz", "corpus.jsonl"), "--format", "beir",
                                "--index", args.index], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                output = subprocess.run(
                    [*cli, "-o", "json", "eval", name, "--queries", first_existing(folder, "queries.jsonl.gz", "queries.jsonl"),
                     "--qrels", first_existing(folder, "qrels.tsv.gz", "qrels.tsv")],
                    check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
                result = json.loads(output)
                reference = REFERENCE_NDCG_AT_10.get(name)
                difference = None if reference is None else result["ndcg_at_10"] - reference
                print(f"{name:<10} {result['query_count']:>7} {result['ndcg_at_10']:>8.4f} "
                      f"{'-' if reference is None else format(reference, '.3f'):>9} "
                      f"{'-' if difference is None else format(difference, '+.4f'):>10} {result['recall_at_100']:>10.4f}", flush=True)
                failed |= difference is not None and abs(difference) > args.tolerance
        finally:
            server.terminate()
            server.wait()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
