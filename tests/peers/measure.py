"""What the measurements against peers share: real texts, turns in one run, our benchmarks as children, how much the roof leaves.

One side's turn is a function without arguments that does its work once and returns the seconds that it took.
"""

import dataclasses
import gzip
import json
import pathlib
import random
import statistics
import subprocess
import time
from typing import Callable, Iterator, Optional

Turn = Callable[[], float]


class Child:
    """A benchmark of ours that answers each line of its standard input with a line of JSON."""

    def __init__(self, command: list) -> None:
        self.command = [str(part) for part in command]
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_) -> None:
        self.process.stdin.close()
        self.process.wait()

    def ask_line(self, command: str) -> str:
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.line()

    def ask(self, command: str):
        return json.loads(self.ask_line(command))

    def line(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.command)} ended with exit status {self.process.wait()}")
        return line.strip()


def timed(work: Callable[[], object], threads: int = 1) -> Turn:
    """Work of this process as a turn: one thread by CPU time, more by wall time."""
    clock = time.process_time if threads == 1 else time.perf_counter

    def turn() -> float:
        start = clock()
        work()
        return clock() - start

    return turn


def percentile(values: list, fraction: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


@dataclasses.dataclass
class Side:
    """One peer beside ours: `ratios` are its time by ours, a round each, above 1 where ours is faster."""

    seconds: list
    ratios: list

    def median_s(self) -> float:
        return statistics.median(self.seconds)

    def median(self) -> float:
        return statistics.median(self.ratios)

    def p10(self) -> float:
        return percentile(self.ratios, 0.1)


@dataclasses.dataclass
class Comparison:
    ours_s: float  # The median of a turn.
    peers: dict  # Name -> Side.
    same: float  # The median ratio of ours to itself: how far the machine's noise reaches.
    other_load: float  # The most cores that others used, sampled between rounds.

    def best(self, names: Optional[list] = None) -> str:
        """The fastest peer, of `names` where given."""
        return min(names or self.peers, key=lambda name: self.peers[name].median_s())


def compare(ours: Turn, peers: dict, rounds: int) -> Comparison:
    """Ours and each of `peers` (name -> Turn) in turns, ours first, all of them twice a round: every turn follows one of another program, so that
    nobody finds its own data in the caches.

    A round's ratio is of a peer's two turns to ours before, between and behind them; that of ours to itself is of the one behind to the one before.
    """
    same, load = [], 0.0
    sides = {name: Side([], []) for name in peers}
    for turn in [ours, *peers.values()]:
        turn()
    ours_s = [ours()]
    for _ in range(rounds):
        load = max(load, other_load())
        turns = {name: [] for name in peers}
        for _ in range(2):
            for name, turn in peers.items():
                turns[name].append(turn())
            ours_s.append(ours())
        before, between, behind = ours_s[-3:]
        same.append(behind / before)
        for name, side in sides.items():
            side.ratios.append(sum(turns[name]) / (between + (before + behind) / 2))
            side.seconds += turns[name]
    return Comparison(statistics.median(ours_s), sides, statistics.median(same), load)


def fastest(modes: dict, repeats: int = 2) -> str:
    """The name of the mode (name -> Turn) whose best turn is the shortest."""
    if len(modes) == 1:
        return next(iter(modes))
    best = {}
    for name, turn in modes.items():
        turn()
        best[name] = min(turn() for _ in range(repeats))
    return min(best, key=best.get)


def other_load(seconds: float = 0.1) -> float:
    """Cores that others use while this process sleeps for `seconds`."""

    def busy() -> int:
        with open("/proc/stat") as file:
            fields = [int(x) for x in file.readline().split()[1:9]]
        return sum(fields) - fields[3] - fields[4]

    before = busy()
    time.sleep(seconds)
    return (busy() - before) / (100.0 * seconds)


def read_texts(path: pathlib.Path) -> Iterator[str]:
    """The texts of JSON lines with "text" and maybe "title", or of plain lines; gzipped or not."""
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8")
    with opened as lines:
        for line in lines:
            if ".jsonl" in path.suffixes:
                row = json.loads(line)
                yield (row.get("title", "") + " " + row["text"]).strip()
            else:
                yield line.rstrip("\n")


def mixed_texts(path: pathlib.Path, seed: int = 1) -> list:
    """All texts of a file in a fixed random order: a file has its sources one after the other."""
    texts = [text for text in read_texts(path) if text]
    random.Random(seed).shuffle(texts)
    return texts


class Roofs:
    """What one core gives, from roof_benchmark: operations and bytes a second, the best of what was asked so far."""

    def __init__(self, binary: Optional[str]) -> None:
        self.binary, self.best = binary, {}

    def measure(self) -> dict:
        """Name -> operations a second ("read": bytes a second)."""
        if self.binary:
            with Child([self.binary]) as child:
                for name, value in child.ask("all").items():
                    self.best[name] = max(value, self.best.get(name, 0.0))
        return self.best

    def of(self, types: list) -> float:
        """The most operations a second of these types, measured anew; 0 where nothing measures. A narrow type's own instruction may be slower
        than float32's, which then is its roof too."""
        self.measure()
        return max((self.best.get(name, 0.0) for name in types), default=0.0)

    def text(self) -> str:
        if not self.best:
            return "roof of one core: not measured"
        parts = [f"{name} {value * 1e-9:.0f} {'GB/s' if name == 'read' else 'Gop/s'}" for name, value in self.best.items()]
        return "roof of one core: " + ", ".join(parts)
