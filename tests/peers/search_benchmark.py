#!/usr/bin/env python3
"""Our exact search against faiss-cpu's flat index and PyTorch's matmul with topk: the same real vectors, in turns in one run.

    bazel build //index:certified_scan_benchmark //tests/peers:roof_benchmark
    VENV/bin/python tests/peers/search_benchmark.py bazel-bin/index/certified_scan_benchmark models/all-MiniLM-L6-v2 PASSAGES.jsonl.gz \\
        --roof bazel-bin/tests/peers/roof_benchmark [--rows 400000] [--queries 1,8,32,64,256] [--modes bfloat16,float32+int8] [--quick]

The vectors are those of pieces of the passages' text; queries are other pieces. Modes are certified_scan_benchmark's: the type of the stored
vectors, and +int8 where a pass over 8-bit codes says which rows are scored; both find what scoring every row finds. One thread, by CPU time. Each
peer in its best mode: faiss with its blocks for BLAS as they are and with BLAS for every batch, PyTorch in bfloat16, float16 and float32, in blocks
of rows of several sizes.

Prints for each mode and number of queries the median and p10 of the paired ratios (above 1: ours is faster), Gop/s, the part of the roof
that ours reaches (one query: of reading the bytes that the mode reads; more: of its multiply-adds), and how many of the top 10 of faiss are found.
"""

import argparse
import os
import pathlib
import sys
import tempfile

import faiss
import measure
import numpy as np
import real_vectors
import torch

MODES = ["bfloat16", "float32+int8", "bfloat16+int8"]
# What bounds a mode: the bytes a row has in its pass over all rows, an element, and the instruction that multiplies.
BYTES_OF = {"float32": 4, "bfloat16": 2}
# From so many queries, rows that have no codes are coded as they are read (kMinMakingQueries in index/certified_scan.cc).
CODED_FROM = 15
TORCH_TYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


class Peers:
    """The peers over one set of vectors, each in the fastest of its modes."""

    def __init__(self, rows: np.ndarray, queries: np.ndarray, top_k: int) -> None:
        faiss.omp_set_num_threads(1)
        torch.set_num_threads(1)
        self.queries, self.top_k = queries, top_k
        self.blas_from = faiss.cvar.distance_compute_blas_threshold
        self.flat = faiss.IndexFlatIP(rows.shape[1])
        self.flat.add(rows)
        stored = torch.from_numpy(np.array(rows))  # Copied: PyTorch warns of what is mapped to be read only.
        self.rows = {name: stored.to(kind) for name, kind in TORCH_TYPES.items()}

    def search_faiss(self, count: int, blas_from: int) -> np.ndarray:
        faiss.cvar.distance_compute_blas_threshold = blas_from
        return self.flat.search(self.queries[:count], self.top_k)[1]

    @torch.inference_mode()
    def search_torch(self, kind: str, count: int, block: int) -> None:
        stored = self.rows[kind]
        queries = torch.from_numpy(np.array(self.queries[:count])).to(stored.dtype)
        scores, rows = [], []
        for first in range(0, len(stored), block):
            best = torch.topk(queries @ stored[first : first + block].T, self.top_k, dim=1)
            scores.append(best.values)
            rows.append(best.indices + first)
        merged = torch.topk(torch.cat(scores, 1), self.top_k, dim=1).indices
        torch.gather(torch.cat(rows, 1), 1, merged)

    def turns(self, count: int) -> dict:
        modes = {
            "faiss-cpu": {f"BLAS from {n}": (lambda n=n: self.search_faiss(count, n)) for n in (self.blas_from, 1)},
            "torch": {
                f"{kind}, blocks of {n}": (lambda kind=kind, n=n: self.search_torch(kind, count, n))
                for kind in TORCH_TYPES
                for n in (8192, 65536, self.flat.ntotal)
            },
        }
        if count == 1:
            del modes["torch"]
        out = {}
        for name, ways in modes.items():
            turns = {way: measure.timed(work) for way, work in ways.items()}
            fastest = measure.fastest(turns, 1)
            out[f"{name}, {fastest}"] = turns[fastest]
        return out


def roof_seconds(roofs: dict, mode: str, rows: int, dim: int, count: int) -> float:
    """The time that a pass over all rows takes at least: of reading them, or of multiplying."""
    stored, _, codes = mode.partition("+")
    read = rows * dim * (1 if codes else BYTES_OF[stored]) / roofs["read"]
    # Where a narrow type's instruction is slower than float32's, or absent, the roof is float32's.
    coded = codes or count >= CODED_FROM
    per_second = max(roofs.get("int8" if coded else stored, 0.0), roofs["float32"])
    return max(read, 2.0 * rows * dim * count / per_second)


class Measured:
    """What both this command line and the whole table take; use as a context."""

    def __init__(self, binary: str, rows: np.ndarray, queries: np.ndarray, top_k: int = 10) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="loci_exact_")
        rows.tofile(os.path.join(self.folder.name, "rows.f32"))
        queries.tofile(os.path.join(self.folder.name, "queries.f32"))
        self.rows, self.dim = rows.shape
        self.top_k = top_k
        self.ours = measure.Child([binary, self.folder.name, self.dim])
        while not self.ours.line().startswith("ready"):
            pass
        self.peers = Peers(rows, queries, top_k)

    def __enter__(self) -> "Measured":
        return self

    def __exit__(self, *args) -> None:
        self.ours.__exit__(*args)
        self.folder.cleanup()

    def overlap(self, mode: str, count: int) -> float:
        """How many of faiss's top k ours finds; rows of nearly equal scores may change places. Ends the program where codes change an answer."""
        found = self.ours.ask(f"hits {mode} {count} {self.top_k}")
        if mode.endswith("+int8") and found != self.ours.ask(f"hits {mode.partition('+')[0]} {count} {self.top_k}"):
            sys.exit(f"{mode} finds other rows than without codes")
        found = np.array(found).reshape(count, -1)
        truth = self.peers.search_faiss(count, self.peers.blas_from)
        return float(np.mean([len(set(a) & set(b)) / self.top_k for a, b in zip(found, truth)]))

    def compare(self, mode: str, count: int, rounds: int) -> measure.Comparison:
        return measure.compare(lambda: self.ours.ask(f"run {mode} {count} {self.top_k}")["s"], self.peers.turns(count), rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("model_dir")
    parser.add_argument("passages", type=pathlib.Path)
    parser.add_argument("--roof", help="roof_benchmark")
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--queries", default="1,8,32,64,256")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="3 rounds")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path.home() / ".cache/loci/peers", help="keeps converted models and vectors")
    args = parser.parse_args()
    rows, queries = real_vectors.make(args.model_dir, args.passages, args.work, args.rows, 1000)
    roofs = measure.Roofs(args.roof)
    with Measured(args.binary, rows, queries) as measured:
        print(f"{measured.rows} x {measured.dim}, top 10, one thread; faiss-cpu {faiss.__version__}, torch {torch.__version__}")
        for count in map(int, args.queries.split(",")):
            for mode in args.modes.split(","):
                compared = measured.compare(mode, count, 3 if args.quick else args.rounds)
                gop = 2e-9 * measured.rows * measured.dim * count
                best = roofs.measure()
                part = f" = {100 * roof_seconds(best, mode, measured.rows, measured.dim, count) / compared.ours_s:.0f} % of the roof" if best else ""
                print(f"{count:4} queries  {mode:<14} {1e3 * compared.ours_s:8.2f} ms {gop / compared.ours_s:6.1f} Gop/s{part}; "
                      f"top-10 overlap {measured.overlap(mode, min(count, 64)):.4f}; A/A {compared.same:.3f}")  # fmt: skip
                for name, side in compared.peers.items():
                    print(f"{'':14}{name:<30} {1e3 * side.median_s():8.2f} ms {gop / side.median_s():6.1f} Gop/s  "
                          f"ratio {side.median():.2f}, p10 {side.p10():.2f}", flush=True)  # fmt: skip
    print(roofs.text())


if __name__ == "__main__":
    main()
