"""Holds the exact phase (log Z and E_p[z] over all passages) to PyTorch's autograd on the same rounded vectors, in float64.

    bazel run -c opt //index:softmax_scan_benchmark -- --dump FOLDER --rows 1000000 --dim 384 --queries 32
    python3 tests/gradients/exact_phase_check.py FOLDER --dim 384

Autograd's d logsumexp(Z q / t) / dq is E_p[z] / t. Prints the largest relative L2 error over the queries for each temperature and kind of query, and ends with 1 where one
is beyond --limit. Needs torch and 16 GB; run by hand.
"""
import argparse
import pathlib
import sys

import numpy as np
import torch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--limit", type=float, default=1e-4)
    parser.add_argument("--queries-at-once", type=int, default=8)
    args = parser.parse_args()
    rows = torch.from_numpy(np.fromfile(args.folder / "rows.f16", dtype="<f2").reshape(-1, args.dim).astype(np.float64))
    queries = torch.from_numpy(np.fromfile(args.folder / "queries.f64", dtype="<f8").reshape(-1, args.dim))
    print(f"{rows.shape[0]} x {rows.shape[1]} float16 rows, {queries.shape[0]} queries, torch {torch.__version__}")
    worst = 0.0
    for temperature in (1.0, 0.05, 0.01):
        log_z, mean, top = [], [], []
        for part in queries.split(args.queries_at_once):
            q = part.clone().requires_grad_(True)
            scores = q @ rows.T / temperature
            z = torch.logsumexp(scores, dim=1)
            z.sum().backward()
            log_z.append(z.detach())
            mean.append(q.grad * temperature)
            top.append((scores.detach().max(dim=1).values - z.detach()).exp())
        log_z, mean, top = torch.cat(log_z), torch.cat(mean), torch.cat(top)
        for kind in ("float32", "float32_4threads", "float64"):
            scan = torch.from_numpy(np.fromfile(args.folder / f"scan_{temperature:g}_{kind}.f64", dtype="<f8").reshape(-1, args.dim + 1))
            mean_error = ((scan[:, 1:] - mean).norm(dim=1) / mean.norm(dim=1)).max().item()
            z_error = (scan[:, 0] - log_z).abs().max().item()
            worst = max(worst, mean_error)
            print(f"temperature {temperature:g} (best passage's share {top.min():.1e} to {top.max():.1e}) {kind}: gradient {mean_error:.2e} relative, log Z {z_error:.2e} absolute")
    return 0 if worst <= args.limit else 1


if __name__ == "__main__":
    sys.exit(main())
