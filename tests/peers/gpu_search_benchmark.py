#!/usr/bin/env python3
"""Our exact search on a CUDA device against torch's matrix product and topk on the same device, same vectors, in turns (ABBA).

    python3 tests/peers/gpu_search_benchmark.py BINARY FOLDER [--rounds 15] [--seconds 120]

FOLDER is what `BINARY FOLDER make ROWS DIM` wrote. Needs torch with CUDA alone. Queries begin on the host and hits end there on both sides. torch
multiplies in bfloat16, all rows at once and in pieces whose best are joined; the faster counts. Prints for each number of queries the median and
p10 of the paired ratios (above 1: ours is faster), an A/A ratio, and how many of our hits torch's rounded scores agree with.

Exits 1 where fewer than 9 in 10 of our hits are torch's, which rounding does not explain; 3 where not all was measured, with the reason.
"""

import argparse
import json
import mmap
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time

TOP_K = 100
LEAST_AGREED = 0.9
NOT_ALL_MEASURED = 3
HEADER_BYTES = 64


def load(folder, torch, device):
    """The rows [rows, dim], bfloat16, on `device`, and the queries [512, dim], float32, pinned where that is a GPU."""
    path = os.path.join(folder, "vectors.bin")
    with open(path, "rb") as file:
        header = file.read(HEADER_BYTES)
        rows, dim = struct.unpack_from("<qq", header, 16)
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    stored = torch.frombuffer(data, dtype=torch.bfloat16, count=rows * dim, offset=HEADER_BYTES).reshape(rows, dim)
    vectors = torch.empty(rows, dim, dtype=torch.bfloat16, device=device)
    for begin in range(0, rows, 1 << 20):
        vectors[begin : begin + (1 << 20)].copy_(stored[begin : begin + (1 << 20)])
    with open(os.path.join(folder, "queries.f32"), "rb") as file:
        queries = torch.frombuffer(bytearray(file.read()), dtype=torch.float32).reshape(-1, dim)
    return vectors, queries.pin_memory() if device == "cuda" else queries


class Peer:
    """matmul and topk; `piece_rows` rows at a time."""

    def __init__(self, name, vectors, piece_rows, torch):
        self.name, self.vectors, self.piece_rows, self.torch = name, vectors, piece_rows, torch

    def run(self, queries):
        torch = self.torch
        with torch.inference_mode():
            begin = time.perf_counter()
            on_device = queries.to(self.vectors.device, torch.bfloat16, non_blocking=True)
            scores, rows = [], []
            for first in range(0, len(self.vectors), self.piece_rows):
                piece = self.vectors[first : first + self.piece_rows]
                best = torch.topk(on_device @ piece.T, min(TOP_K, len(piece)), dim=1)
                scores.append(best.values)
                rows.append(best.indices + first)
            if len(scores) > 1:
                best = torch.topk(torch.cat(scores, 1), TOP_K, dim=1)
                found = torch.gather(torch.cat(rows, 1), 1, best.indices)
            else:
                found = rows[0]
            self.found = found.cpu()
            return time.perf_counter() - begin


class Ours:
    def __init__(self, binary, folder):
        self.process = subprocess.Popen([binary, folder, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit("our search ended")
        return json.loads(line)

    def run(self, count):
        return self.ask(f"run {count}")["wall_s"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("folder")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=120, help="numbers of queries that are left after this are not measured, and named")
    args = parser.parse_args()
    try:
        import torch
    except ImportError as error:
        print("no torch here, so no peer:", error)
        return NOT_ALL_MEASURED
    if not torch.cuda.is_available():
        print("torch", torch.__version__, "sees no CUDA device, so no peer")
        return NOT_ALL_MEASURED
    result = 0
    begin = time.perf_counter()
    ours = Ours(args.binary, args.folder)
    ours.run(1)
    vectors, queries = load(args.folder, torch, "cuda")
    print("torch", torch.__version__, "on", torch.cuda.get_device_name(0), *vectors.shape, f"loaded in {time.perf_counter() - begin:.0f} s")
    for count in (1, 8, 16, 64, 512):
        if time.perf_counter() - begin > args.seconds:
            print(f"{count} queries: not measured, the time is over")
            result = result or NOT_ALL_MEASURED
            continue
        some = queries[:count]
        peers = [Peer("all rows at once", vectors, len(vectors), torch), Peer("2^20 rows at a time", vectors, 1 << 20, torch)]
        usable = []
        for peer in peers:
            try:
                for _ in range(2):
                    peer.run(some)
                peer.best = min(peer.run(some) for _ in range(3))
                usable.append(peer)
            except torch.cuda.OutOfMemoryError:
                print(f"{count} queries, {peer.name}: torch has too little memory")
                torch.cuda.empty_cache()
        if not usable:
            print(f"{count} queries: not measured, torch has too little memory")
            result = result or NOT_ALL_MEASURED
            continue
        best = min(usable, key=lambda peer: peer.best)
        for _ in range(3):
            ours.run(count)
        ratios, mine, theirs = [], [], []
        for _ in range(args.rounds):
            a1, b1, b2, a2 = ours.run(count), best.run(some), best.run(some), ours.run(count)
            ratios.append((b1 + b2) / (a1 + a2))
            mine.append((a1 + a2) / 2)
            theirs.append((b1 + b2) / 2)
        same = statistics.median(ours.run(count) / ours.run(count) for _ in range(15))
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "rows")
            ours.ask(f"write {count} {path}")
            with open(path, "rb") as file:
                rows = torch.frombuffer(bytearray(file.read()), dtype=torch.int64).reshape(count, TOP_K)
        agreed = sum(len(set(a) & set(b)) for a, b in zip(rows.tolist(), best.found.tolist())) / (count * TOP_K)
        ratios.sort()
        print(
            f"{count} queries: {statistics.median(ratios):.2f}x median, {ratios[len(ratios) // 10]:.2f}x p10 of torch ({best.name}); A/A {same:.3f}; "
            f"ours {1e3 * statistics.median(mine):.3f} ms, torch {1e3 * statistics.median(theirs):.3f} ms; {agreed:.4f} of our hits are torch's",
            flush=True,
        )
        if agreed < LEAST_AGREED:
            print(f"{count} queries: FAILED: {agreed:.4f} of our hits are torch's, the least is {LEAST_AGREED}", flush=True)
            result = 1
    ours.close()
    return result


if __name__ == "__main__":
    sys.exit(main())
