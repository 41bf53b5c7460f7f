#!/usr/bin/env python3
"""Filtered exact search: ours against our own without a filter, and against faiss's flat index with an id selector, in turns (ABBA).

    python tests/peers/filter_benchmark.py bazel-bin/index/filter_benchmark [--rows 200000] [--dim 384] [--rounds 9] [--top-k 10]

One thread each, CPU time. Ours includes the evaluation of the filter; faiss is given a selector that is ready, the faster of a bitmap and
a set of ids. Prints the median of the paired ratios: "unfiltered" above 1 means that the filter makes the search faster, "faiss" above 1
that ours is faster than faiss. Ends with an error where both do not find the same rows.
"""

import argparse
import os
import statistics
import tempfile
import time

import faiss
import measure
import numpy as np

FILTERS = [
    ("1 %", "n < 10", lambda n: n < 10),
    ("10 %", "n < 100", lambda n: n < 100),
    ("50 %", "n < 500", lambda n: n < 500),
    ("90 %", "not n < 100", lambda n: n >= 100),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--top-k", type=int, default=10)
    args = parser.parse_args()
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, measure.Child([args.binary, folder, args.rows, args.dim]) as ours:
        print(ours.line())
        vectors = np.memmap(os.path.join(folder, "vectors.bin"), dtype=np.float32, mode="r", offset=64, shape=(args.rows, args.dim))
        numbers = np.fromfile(os.path.join(folder, "numbers"), dtype=np.int64)
        queries = np.fromfile(os.path.join(folder, "queries"), dtype=np.float32).reshape(-1, args.dim)
        index = faiss.IndexFlatIP(args.dim)
        for first in range(0, args.rows, 65536):
            index.add(np.ascontiguousarray(vectors[first : first + 65536]))

        def peer(count: int, selector) -> tuple[float, np.ndarray]:
            parameters = faiss.SearchParameters(sel=selector)
            start = time.process_time()
            rows = index.search(queries[:count], args.top_k, params=parameters)[1]
            return time.process_time() - start, rows

        print(f"{args.rows} x {args.dim} float32, top {args.top_k}, one thread, {args.rounds} rounds; faiss-cpu {faiss.__version__}")
        print("queries  selectivity  rows      ours ms  filter ms  without ms  faiss ms  unfiltered  faiss")
        for count in (1, 64):
            for name, text, matches in FILTERS:
                keep = matches(numbers)
                ids = np.flatnonzero(keep)
                bits = np.packbits(keep, bitorder="little")
                selectors = [faiss.IDSelectorBitmap(bits), faiss.IDSelectorBatch(ids)]
                timed = [min(peer(count, selector)[0] for _ in range(2)) for selector in selectors]
                selector = selectors[timed.index(min(timed))]
                run, plain = f"run {count} {args.top_k} {text}", f"run {count} {args.top_k}"
                found = np.array(ours.ask(f"hits {count} {args.top_k} {text}")).reshape(count, -1)
                # Rows of nearly equal scores may change places: the order of summation differs.
                same = np.mean([len(set(a) & set(b)) / args.top_k for a, b in zip(found, peer(count, selector)[1])])
                assert same > 0.999, same
                mine, filters, without, theirs, by_unfiltered, by_faiss = [], [], [], [], [], []
                for _ in range(args.rounds):
                    a1, b1, c1 = ours.ask(run), ours.ask(plain), peer(count, selector)[0]
                    c2, b2, a2 = peer(count, selector)[0], ours.ask(plain), ours.ask(run)
                    assert a1["matches"] == len(ids)
                    own = a1["cpu_s"] + a2["cpu_s"]
                    by_unfiltered.append((b1["cpu_s"] + b2["cpu_s"]) / own)
                    by_faiss.append((c1 + c2) / own)
                    mine.append(own / 2)
                    filters.append((a1["filter_s"] + a2["filter_s"]) / 2)
                    without.append((b1["cpu_s"] + b2["cpu_s"]) / 2)
                    theirs.append((c1 + c2) / 2)
                ms = [1e3 * statistics.median(x) for x in (mine, filters, without, theirs)]
                print(f"{count:7}  {name:>11}  {len(ids):8} {ms[0]:8.2f}  {ms[1]:9.3f}  {ms[2]:10.2f}  {ms[3]:8.2f}  "
                      f"{statistics.median(by_unfiltered):9.2f}x  {statistics.median(by_faiss):4.1f}x", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
