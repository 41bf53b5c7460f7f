#!/usr/bin/env python3
"""HNSW and inverted lists: FAISS 1.7.3 as we build and serve it against hnswlib, usearch and PyPI's faiss-cpu, at one recall, in turns in one run.

    bazel build //index:approximate_index_benchmark
    VENV/bin/python tests/peers/approximate_benchmark.py bazel-bin/index/approximate_index_benchmark models/all-MiniLM-L6-v2 PASSAGES.jsonl.gz \\
        [--rows 100000] [--recall 0.95] [--rounds 15] [--quick]

The vectors are those of pieces of the passages' text; the 1,000 queries are other pieces. Each index is built by one thread with 32 links (at
most 64 on the lowest layer) or with about 4 sqrt(rows) lists, and searched with the least effort (efSearch, nprobe) that reaches the recall@10, by one thread, all queries
in one call, by CPU time. Ours rescores what it finds in float32. Prints queries a second, recall, effort, CPU time of the build, and the median and
p10 of the paired ratios to ours (above 1: ours is faster).
"""

import argparse
import math
import os
import pathlib
import tempfile
import time
from typing import Callable

import faiss
import hnswlib
import measure
import numpy as np
import real_vectors
from usearch.index import Index

TOP_K = 10
LINKS = 32
EFFORTS = [4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 256, 384, 512, 768, 1024]


class Engine:
    """A built index. `search`: effort -> rows found [queries, TOP_K]; `turn`: effort -> Turn."""

    def __init__(self, name: str, build_s: float, search: Callable, turn: Callable = None) -> None:
        self.name, self.build_s, self.search = name, build_s, search
        self.turn = turn or (lambda effort: measure.timed(lambda: search(effort)))
        self.effort, self.recall = 0, 0.0

    def tune(self, truth: np.ndarray, recall: float) -> None:
        """Takes the least effort that reaches `recall`, or the most."""
        low, high = 0, len(EFFORTS) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.recall_at(EFFORTS[middle], truth) >= recall else (middle + 1, high)
        self.effort = EFFORTS[low]
        self.recall = self.recall_at(self.effort, truth)

    def recall_at(self, effort: int, truth: np.ndarray) -> float:
        found = self.search(effort)
        return float(np.mean([len(set(a) & set(b)) / TOP_K for a, b in zip(found, truth)]))


def list_count(row_count: int) -> int:
    """The power of two nearest to four times the square root: 1,024 lists for 100,000 rows."""
    return 2 ** round(math.log2(4 * math.sqrt(row_count)))


def built(work: Callable[[], object]) -> tuple:
    start = time.process_time()
    return work(), time.process_time() - start


def faiss_engine(factory: str, rows: np.ndarray, queries: np.ndarray) -> Engine:
    def build() -> faiss.Index:
        index = faiss.index_factory(rows.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(rows[:: max(1, len(rows) // (64 * list_count(len(rows))))])
        index.add(rows)
        return index

    index, seconds = built(build)

    def search(effort: int) -> np.ndarray:
        if factory.startswith("HNSW"):
            index.hnsw.efSearch = effort
        else:
            index.nprobe = effort
        return index.search(queries, TOP_K)[1]

    return Engine(f"faiss-cpu {faiss.__version__} {factory}", seconds, search)


def hnswlib_engine(rows: np.ndarray, queries: np.ndarray, ef_construction: int) -> Engine:
    index = hnswlib.Index(space="ip", dim=rows.shape[1])
    index.init_index(max_elements=len(rows), M=LINKS, ef_construction=ef_construction)
    index.set_num_threads(1)
    _, seconds = built(lambda: index.add_items(rows, num_threads=1))

    def search(effort: int) -> np.ndarray:
        index.set_ef(max(effort, TOP_K))
        return index.knn_query(queries, TOP_K, num_threads=1)[0]

    return Engine(f"hnswlib efConstruction {ef_construction}", seconds, search)


def usearch_engine(rows: np.ndarray, queries: np.ndarray, dtype: str, ef_construction: int) -> Engine:
    index = Index(ndim=rows.shape[1], metric="ip", dtype=dtype, connectivity=LINKS, expansion_add=ef_construction)
    _, seconds = built(lambda: index.add(np.arange(len(rows)), rows, threads=1))

    def search(effort: int) -> np.ndarray:
        index.expansion_search = max(effort, TOP_K)
        return index.search(queries, TOP_K, threads=1).keys

    return Engine(f"usearch {dtype}", seconds, search)


def our_engine(child: measure.Child, factory: str, query_count: int) -> Engine:
    seconds = child.ask(f"build {factory}")["cpu_s"]
    # A graph's efSearch is at least what is rescored: as much as the effort says.
    rescore = 1 if factory.startswith("HNSW") else 0
    what = f"{factory} {query_count} {TOP_K}"

    def search(effort: int) -> np.ndarray:
        return np.array(child.ask(f"hits {what} {effort} {rescore}")).reshape(query_count, -1)

    return Engine(f"ours {factory}", seconds, search, lambda effort: lambda: child.ask(f"run {what} {effort} {rescore}")["cpu_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("model_dir")
    parser.add_argument("passages", type=pathlib.Path)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="10,000 rows, 5 rounds")
    parser.add_argument("--only", choices=["HNSW", "IVF"])
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path.home() / ".cache/loci/peers", help="keeps converted models and vectors")
    args = parser.parse_args()
    if args.quick:
        args.rows, args.rounds = 10_000, 5
    faiss.omp_set_num_threads(1)
    rows, queries = real_vectors.make(args.model_dir, args.passages, args.work, args.rows, 1000)
    flat = faiss.IndexFlatIP(rows.shape[1])
    flat.add(rows)
    truth = flat.search(queries, TOP_K)[1]
    with tempfile.TemporaryDirectory(prefix="loci_ann_") as folder:
        rows.tofile(os.path.join(folder, "rows.f32"))
        queries.tofile(os.path.join(folder, "queries.f32"))
        with measure.Child([args.binary, folder, rows.shape[1]]) as child:
            child.line()
            print(f"{len(rows)} x {rows.shape[1]}, {len(queries)} queries, top {TOP_K} at recall {args.recall}, one thread, {args.rounds} rounds")
            lists = list_count(len(rows))
            families = {
                "HNSW": lambda: (
                    [our_engine(child, f"HNSW{LINKS}", len(queries))],
                    [faiss_engine(f"HNSW{LINKS}", rows, queries), hnswlib_engine(rows, queries, 40), usearch_engine(rows, queries, "f32", 40),
                     usearch_engine(rows, queries, "bf16", 40), usearch_engine(rows, queries, "i8", 40)],
                ),
                "IVF": lambda: (
                    [our_engine(child, f"IVF{lists},{code}", len(queries)) for code in ("Flat", "SQ8")],
                    [faiss_engine(f"IVF{lists},{code}", rows, queries) for code in ("Flat", "SQ8")],
                ),
            }  # fmt: skip
            for family, make in families.items():
                if args.only and args.only != family:
                    continue
                ours, peers = make()
                for engine in [*ours, *peers]:
                    engine.tune(truth, args.recall)
                for own in ours:
                    compared = measure.compare(own.turn(own.effort), {p.name: p.turn(p.effort) for p in peers}, args.rounds)
                    print(f"{own.name:<32} {len(queries) / compared.ours_s:8.0f} queries/s, recall {own.recall:.3f} at {own.effort}, "
                          f"built in {own.build_s:.0f} s; A/A {compared.same:.3f}")  # fmt: skip
                    for peer in peers:
                        side = compared.peers[peer.name]
                        print(f"  {peer.name:<30} {len(queries) / side.median_s():8.0f} queries/s, recall {peer.recall:.3f} at {peer.effort}, "
                              f"built in {peer.build_s:.0f} s  ratio {side.median():.2f}, p10 {side.p10():.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
