"""What every recipe has: arguments in common, a run log as JSON lines, and figures."""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from typing import Any

import numpy as np
import torch


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=pathlib.Path, help="folder with passages.jsonl.gz and squad_train/")
    parser.add_argument("--server", default="127.0.0.1:7440", help="HOST:PORT of a Loci server whose encoder is --model (default: %(default)s)")
    parser.add_argument("--model", type=pathlib.Path, default=pathlib.Path("models/all-MiniLM-L6-v2"), help="the encoder's checkpoint (default: %(default)s)")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for cached token states and the reader, used again by the next run")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder for the run log and the plots")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch (default: %(default)s)")


class RunLog:
    """One JSON object a line in NAME.jsonl, each with `seconds` since the beginning; the first has the arguments."""

    def __init__(self, folder: pathlib.Path, name: str, args: argparse.Namespace) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = open(folder / f"{name}.jsonl", "w", encoding="utf-8")
        self._began = time.monotonic()
        self(
            {
                "event": "begin",
                "arguments": {key: str(value) if isinstance(value, pathlib.Path) else value for key, value in vars(args).items()},
                "torch": torch.__version__,
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
        )

    def __call__(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps({"seconds": round(time.monotonic() - self._began, 3), **row}) + "\n")
        self._file.flush()

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def close(self) -> None:
        self({"event": "end"})
        self._file.close()


def figure(rows: int, columns: int, **options: Any) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(rows, columns, figsize=(5.5 * columns, 3.8 * rows), layout="constrained", **options)


def save_figure(chart: Any, folder: pathlib.Path, name: str) -> None:
    for suffix in ("png", "svg"):
        chart.savefig(folder / f"{name}.{suffix}", dpi=130)
    print(f"{folder / name}.png")


# Of Student's distribution, two-sided 95 %, by degrees of freedom from 1.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


def paired_interval(differences: list[float]) -> tuple[float, float, float]:
    """Mean, and the 95 % interval of the mean, of paired differences (Student's t)."""
    values = np.asarray(differences, np.float64)
    freedom = len(values) - 1
    if freedom < 1:
        return float(values.mean()), float("nan"), float("nan")
    half = (_T95[freedom - 1] if freedom <= len(_T95) else 1.96) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)
