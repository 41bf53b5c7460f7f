"""A progress bar on standard error, where that is a terminal."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

_EVERY_S = 0.1


def shown(progress: bool | None) -> bool:
    """What is asked for; by default whether standard error is a terminal."""
    if progress is not None:
        return progress
    return sys.stderr is not None and sys.stderr.isatty()


class ProgressBar:
    """One line that is written anew. A context manager: the line ends with it. Used by one thread at a time."""

    def __init__(self, shows: bool, label: str, unit: str) -> None:
        self._shows = shows
        self._label = label
        self._unit = unit
        self._drawn = -1e9
        self._started = time.monotonic()
        self._width = 0

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._width:
            print(file=sys.stderr, flush=True)

    def update(self, done: int, total: int = 0, label: str | None = None, unit: str | None = None, eta_ms: int = -1, last: bool = False) -> None:
        """Shows `done` of `total` (0: not known), at most ten times a second but for the last one and a new label."""
        changed = last or (label is not None and label != self._label)
        self._label = self._label if label is None else label
        self._unit = self._unit if unit is None else unit
        now = time.monotonic()
        if not self._shows or (not changed and now - self._drawn < _EVERY_S):
            return
        self._drawn = now
        columns = shutil.get_terminal_size().columns
        text = f"{self._label}: {done:,}" + (f"/{total:,}" if total else "") + f" {self._unit}"
        if total:
            share = min(done / total, 1.0)
            filled = int(share * 20)
            text += f" [{'#' * filled}{'.' * (20 - filled)}] {share:4.0%}"
        else:
            text += f", {done / max(now - self._started, 1e-3):,.0f}/s"
        if eta_ms >= 0:
            text += f", {eta_ms / 1000:.0f} s to go"
        text = text[:max(columns - 1, 20)]
        print("\r" + text.ljust(self._width), end="", file=sys.stderr, flush=True)
        self._width = len(text)
