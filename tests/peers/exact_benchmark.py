#!/usr/bin/env python3
"""Exact search: ours, with and without 8-bit codes, against faiss's flat index and torch's matmul + topk in bfloat16, in turns (ABBA).

    bazel build //index:certified_scan_benchmark
    python tests/peers/exact_benchmark.py bazel-bin/index/certified_scan_benchmark [--vectors PASSAGES.f32 --queries QUERIES.f32]
        [--rows 400000] [--dim 384] [--threads 1] [--rounds 15] [--top-k 10] [--counts 1,8,32,64,256]

The vectors are those of the file ([n, dim] float32, of passages), repeated with noise until there are enough, or random ones around random centres;
the queries are those of the other file, of questions, or vectors with noise. With one thread, CPU time is compared; with more, the time of
the clock, and "not judged" is printed where other processes took a part of the machine. Each peer is given the faster of its modes (torch: all scores at
once, or in blocks). A ratio above 1 means that ours is faster; its median and its 10th percentile over the rounds are printed, and A/A is ours
against itself. "roof" is the share of the 8-bit operations, or of the reading of the codes, that one thread does at most in the same run, whichever is
nearer. Ends with an error where our answers differ among each other, or from faiss's by more than its rounding explains.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time

import faiss
import numpy as np
import torch

BLOCK_ROWS = 16384


class Ours:
    def __init__(self, binary: str, folder: str, dim: int, threads: int) -> None:
        command = [binary, folder, str(dim), str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        while not (line := self.process.stdout.readline()).startswith("ready"):
            if not line:
                raise SystemExit("certified_scan_benchmark ended")
            print(line.strip())
        print(line.strip())

    def ask(self, command: str):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_data(args, folder: str) -> str:
    random = np.random.default_rng(1)

    def noisy(vectors: np.ndarray, noise: float) -> np.ndarray:
        return unit(vectors + random.standard_normal(vectors.shape, np.float32) * np.float32(noise / np.sqrt(args.dim)))

    if args.vectors:
        base = np.fromfile(args.vectors, np.float32).reshape(-1, args.dim)
        described = f"{len(base)} vectors of passages, repeated with noise of {args.noise} of their length"
    else:
        base = unit(random.standard_normal((4000, args.dim), np.float32))
        described = f"random vectors around {len(base)} random centres, {args.noise} of a centre's length from it"
    rows = np.empty((args.rows, args.dim), np.float32)
    for first in range(0, args.rows, len(base)):
        part = base[: args.rows - first]
        rows[first : first + len(part)] = part if args.vectors and first == 0 else noisy(part, args.noise)
    if args.queries:
        queries = np.fromfile(args.queries, np.float32).reshape(-1, args.dim)
        described += f"; {len(queries)} queries of questions"
    else:
        queries = noisy(base[random.choice(len(base), 512)], 1.0)
        described += "; queries with noise of a centre's length"
    rows.tofile(os.path.join(folder, "rows.f32"))
    queries.tofile(os.path.join(folder, "queries.f32"))
    return described


def busy_seconds() -> float:
    """Of all processes, since the machine began."""
    user, nice, system = (int(word) for word in open("/proc/stat").readline().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--vectors")
    parser.add_argument("--queries")
    parser.add_argument("--noise", type=float, default=0.5)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--top-k", type=int, default=10)
    parser.add_argument("--counts", default="1,8,32,64,256")
    args = parser.parse_args()
    faiss.omp_set_num_threads(args.threads)
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.threads == 1 else time.perf_counter
    with tempfile.TemporaryDirectory() as folder:
        described = make_data(args, folder)
        ours = Ours(args.binary, folder, args.dim, args.threads)
        rows = np.memmap(os.path.join(folder, "rows.f32"), np.float32, "r").reshape(-1, args.dim)
        queries = np.fromfile(os.path.join(folder, "queries.f32"), np.float32).reshape(-1, args.dim)
        index = faiss.IndexFlatIP(args.dim)
        tensor = torch.empty((args.rows, args.dim), dtype=torch.bfloat16)
        for first in range(0, args.rows, 65536):
            part = np.ascontiguousarray(rows[first : first + 65536])
            index.add(part)
            tensor[first : first + len(part)] = torch.from_numpy(part).bfloat16()
        query_tensor = torch.from_numpy(queries).bfloat16()

        def by_faiss(count: int):
            return index.search(queries[:count], args.top_k)[1]

        def by_torch(count: int):
            return torch.topk(query_tensor[:count] @ tensor.T, args.top_k)

        def by_torch_blocks(count: int):
            values, places = [], []
            for first in range(0, args.rows, BLOCK_ROWS):
                block = torch.topk(query_tensor[:count] @ tensor[first : first + BLOCK_ROWS].T, min(args.top_k, args.rows - first))
                values.append(block.values)
                places.append(block.indices + first)
            best = torch.topk(torch.cat(values, 1), args.top_k)
            return torch.gather(torch.cat(places, 1), 1, best.indices)

        def timed(function, count: int) -> float:
            with torch.inference_mode():
                start = clock()
                function(count)
                return clock() - start

        peers = {"faiss": by_faiss, "torch": by_torch, "torch in blocks": by_torch_blocks}
        modes = ["float32+int8", "bfloat16+int8", "bfloat16", "float32", "bfloat16+all", "float32+all"]
        roof = ours.ask("roof x 0 0")
        print(described)
        print(f"{args.rows} x {args.dim}, top {args.top_k}, {args.threads} thread(s), {args.rounds} rounds; faiss-cpu {faiss.__version__}, torch {torch.__version__}")
        print(f"one thread at most: {roof['int8'] / 1e9:.0f} G 8-bit and {roof['float32'] / 1e9:.0f} G float32 operations/s, reading "
              f"{roof['read_codes'] / 1e9:.1f} GB/s of codes, {roof['read_float32'] / 1e9:.1f} GB/s of float32")  # fmt: skip
        print("queries  mode            ours ms    roof  scored  best peer         its ms  median   p10  A/A")
        for count in (int(word) for word in args.counts.split(",")):
            found = [ours.ask(f"hits {mode} {count} {args.top_k}") for mode in modes]
            assert found[0] == found[3] == found[5] and found[1] == found[2] == found[4], "codes change an answer"
            theirs = by_faiss(count)
            same = np.mean([len(set(a) & set(b)) / args.top_k for a, b in zip(np.array(found[0]).reshape(count, -1), theirs)])
            assert same > 0.999, same  # Rows of nearly equal scores may change places: the order of summation differs.
            first_times = {name: min(timed(function, count) for _ in range(2)) for name, function in peers.items()}
            name = min(first_times, key=first_times.get)
            for mode in modes:
                run = f"run {mode} {count} {args.top_k}"
                ratios, same_ratios, mine, its, scored, given_up = [], [], [], [], 0, 0
                busy, start = busy_seconds(), time.perf_counter()
                for _ in range(args.rounds):
                    a1, b1 = ours.ask(run), timed(peers[name], count)
                    b2, a2 = timed(peers[name], count), ours.ask(run)
                    ratios.append((b1 + b2) / (a1["s"] + a2["s"]))
                    same_ratios.append(a1["s"] / a2["s"])
                    mine.append((a1["s"] + a2["s"]) / 2)
                    its.append((b1 + b2) / 2)
                    scored, given_up = a1["scored"], a1["given_up"]
                others = (busy_seconds() - busy) / (time.perf_counter() - start) / args.threads
                seconds = statistics.median(mine)
                code_bytes = args.rows * (args.dim + 12)
                share = max(2 * count * args.rows * args.dim / roof["int8"], code_bytes / roof["read_codes"]) / seconds / args.threads if "int8" in mode and roof["int8"] else 0
                judged = "" if args.threads == 1 or others < 1.1 else "  not judged: others were at work"
                print(f"{count:7}  {mode:14}  {1e3 * seconds:7.2f}  {f'{100 * share:.0f} %' if share else '-':>6}  {scored:6.0f}  {name:16}  "
                      f"{1e3 * statistics.median(its):6.1f}  {statistics.median(ratios):5.2f}x  {np.quantile(ratios, 0.1):5.2f}x  "
                      f"{statistics.median(same_ratios):.2f}{f'  {given_up} given up' if given_up else ''}{judged}", flush=True)  # fmt: skip
        ours.process.stdin.close()
        ours.process.wait()


if __name__ == "__main__":
    main()
