"""Checks a recorded history of one store: every reply is that of exactly one view, in an order that real time allows.

Updates (upserts, deletions, activations, roll-backs, folds) have an order of their own: each but a fold takes a revision, and a fold
lies behind the revision that it names. So the history has one sequence of states, each with a generation and contents that are computed
here, and the generation and revision of a reply name one of them. What is checked:

1. A reply names a state that there was, and what it says is what that state contains, all of it: ids, versions, scores, order, the
   best top_k and no others. A fold's state contains what the state before it does.
2. Where one operation ended before another began, the other one's state is not an earlier one; an update's is a later one. So what was
   acknowledged is seen, no read goes back behind what an earlier one showed, and none sees what was not begun.
3. A roll-back goes to what served before, where a fold's generation stands for the one that it replaced.

A version is "PALETTE.NUMBER": passages of one palette entry have one text, and so one vector; the number is each upsert's own.
"""

from __future__ import annotations

import bisect
import dataclasses
from typing import Optional

MAX_HISTORY = 32  # Generations that served before, as the server keeps them.
TOLERANCE = 1e-5  # Of scores, which the server sums in float32.


@dataclasses.dataclass
class Operation:
    kind: str  # "upsert", "delete", "activate", "rollback", "fold", "search" or "get".
    start: int  # Of one clock, in any unit.
    end: int
    generation: str = ""  # Of the reply: of an update that which serves after it.
    revision: int = -1  # Of the reply; -1: a get that found nothing.
    items: dict[str, Optional[str]] = dataclasses.field(default_factory=dict)  # Written: id to version, None: deleted. Of a get: its id.
    discard: bool = False  # Of activations and roll-backs: the writes since were dropped, else replayed.
    base_revision: int = -1  # Of a fold.
    previous: str = ""  # Of a fold: the generation that it replaced.
    top_k: int = 0
    results: list[tuple[int, list[tuple[str, str, float]]]] = dataclasses.field(default_factory=list)  # (query, [(id, version, score)]).

    def __str__(self) -> str:
        return f"{self.kind} [{self.start}, {self.end}] generation {self.generation} revision {self.revision}"


@dataclasses.dataclass
class Body:
    """What a generation contains by itself."""
    base_revision: int
    contents: dict[str, str]


@dataclasses.dataclass
class _State:
    revision: int
    generation: str
    contents: dict[str, str]
    update: Optional[Operation]


def _palette(version: str) -> int:
    return int(version.split(".")[0])


class Checker:
    """`bodies` has the generations that there were at the start, of which `active` served at `revision`, with no writes over it.
    `scores[query][palette]` is the score of a text for a query."""

    def __init__(self, bodies: dict[str, Body], active: str, revision: int, scores: list[list[float]]) -> None:
        self._bodies = dict(bodies)
        self._scores = scores
        self._states = [_State(revision, active, dict(bodies[active].contents), None)]
        self._places: dict[tuple[str, int], int] = {(active, revision): 0}
        self._history: list[str] = []
        self._writes: list[Operation] = []
        self.errors: list[str] = []

    def check(self, operations: list[Operation], max_errors: int = 20) -> list[str]:
        """What is wrong, the first of it; empty where nothing is."""
        updates = [operation for operation in operations if operation.kind not in ("search", "get")]
        self._build(updates)
        if not self.errors:
            self._check_order(operations)
            self._check_replies(operations)
        return self.errors[:max_errors]

    def _fail(self, operation: Operation, what: str) -> None:
        self.errors.append(f"{operation}: {what}")

    # --- The sequence of states ---

    def _build(self, updates: list[Operation]) -> None:
        folded_at: dict[int, int] = {}
        for update in sorted(updates, key=lambda update: (update.revision, update.kind == "fold", update.start)):
            before = self._states[-1]
            if update.kind == "fold":
                # At its revision, behind the write of that revision.
                folded_at[update.revision] = folded_at.get(update.revision, 0) + 1
                if update.revision != before.revision:
                    self._fail(update, f"nothing has this revision; the one before is {before.revision}")
                    continue
                self._fold(update, before)
                continue
            if update.revision <= before.revision:
                self._fail(update, f"an update before it has revision {before.revision} ({before.update})")
                continue
            if update.kind in ("upsert", "delete"):
                self._write(update, before)
            else:
                self._activate(update, before)

    def _add(self, state: _State) -> None:
        self._states.append(state)
        self._places[(state.generation, state.revision)] = len(self._states) - 1

    def _write(self, update: Operation, before: _State) -> None:
        if update.generation != before.generation:
            self._fail(update, f"{before.generation} served then")
        contents = dict(before.contents)
        self._apply(update, contents)
        self._writes.append(update)
        self._add(_State(update.revision, before.generation, contents, update))

    @staticmethod
    def _apply(update: Operation, contents: dict[str, str]) -> None:
        for passage, version in update.items.items():
            if version is None:
                contents.pop(passage, None)
            else:
                contents[passage] = version

    def _activate(self, update: Operation, before: _State) -> None:
        target = update.generation
        if update.kind == "rollback":
            expected = next((generation for generation in reversed(self._history) if generation != before.generation), None)
            if target != expected:
                self._fail(update, f"what served before was {expected}")
                return
            del self._history[self._history.index(target):]
        elif target != before.generation:
            # Each generation is in it once, where it served last, the active one where it did before.
            self._history = [generation for generation in self._history if generation != before.generation] + [before.generation]
        self._history = self._history[-MAX_HISTORY:]
        if target not in self._bodies:
            self._fail(update, "there is no such generation")
            return
        body = self._bodies[target]
        contents = dict(body.contents)
        if not update.discard:
            first = bisect.bisect_right(self._writes, body.base_revision, key=lambda write: write.revision)
            for write in self._writes[first:]:
                self._apply(write, contents)
        self._add(_State(update.revision, target, contents, update))

    def _fold(self, update: Operation, before: _State) -> None:
        if update.previous != before.generation:
            self._fail(update, f"it replaced {update.previous}, but {before.generation} served")
            return
        at = bisect.bisect_right(self._states, update.base_revision, key=lambda state: state.revision) - 1
        if at < 0 or self._states[at].revision != update.base_revision:
            self._fail(update, f"nothing has its base, revision {update.base_revision}")
            return
        self._history = [update.generation if generation == update.previous else generation for generation in self._history]
        self._bodies[update.generation] = Body(update.base_revision, dict(self._states[at].contents))
        self._add(_State(update.revision, update.generation, before.contents, update))

    # --- What real time says ---

    def _place(self, operation: Operation) -> int:
        """The number of the operation's state; -1: a get that found nothing, or one that is told elsewhere."""
        return self._places.get((operation.generation, operation.revision), -1)

    def _check_order(self, operations: list[Operation]) -> None:
        ended = sorted((operation for operation in operations if self._place(operation) >= 0), key=lambda operation: operation.end)
        latest, shown_by, next_ended = 0, None, 0
        for operation in sorted(operations, key=lambda operation: operation.start):
            while next_ended < len(ended) and ended[next_ended].end < operation.start:
                place = self._place(ended[next_ended])
                if place > latest or shown_by is None:
                    latest, shown_by = place, ended[next_ended]
                next_ended += 1
            place = self._place(operation)
            if place < 0 or shown_by is None:
                continue
            if place < latest:
                self._fail(operation, f"it goes back behind {shown_by}, which ended before it began")
            elif place == latest and operation.kind not in ("search", "get"):
                self._fail(operation, f"it was seen before it began, by {shown_by}")

    # --- What replies say ---

    def _check_replies(self, operations: list[Operation]) -> None:
        begun = sorted((update.start, self._place(update)) for update in operations if update.kind not in ("search", "get"))
        begun_latest, latest = [], 0  # Of the updates begun up to each.
        for _, place in begun:
            latest = max(latest, place)
            begun_latest.append(latest)
        ended = sorted((operation.end, self._place(operation)) for operation in operations)
        ended_latest, latest = [], 0
        for _, place in ended:
            latest = max(latest, place)
            ended_latest.append(latest)
        for operation in operations:
            if operation.kind == "get" and operation.revision < 0:
                (passage,) = operation.items
                first = bisect.bisect_left(ended, (operation.start, -1)) - 1
                last = bisect.bisect_right(begun, (operation.end, len(self._states))) - 1
                states = self._states[ended_latest[first] if first >= 0 else 0:(begun_latest[last] if last >= 0 else 0) + 1]
                if all(passage in state.contents for state in states):
                    self._fail(operation, f"{passage} was there all the time and was not found")
                continue
            if operation.kind not in ("search", "get"):
                continue
            place = self._place(operation)
            if place < 0:
                self._fail(operation, "no view has this generation and revision")
                continue
            contents = self._states[place].contents
            if operation.kind == "get":
                ((passage, version),) = operation.items.items()
                if contents.get(passage) != version:
                    self._fail(operation, f"{passage} is {version}, and was {contents.get(passage)}")
                continue
            for query, hits in operation.results:
                wrong = self._wrong_hits(query, hits, operation.top_k, contents)
                if wrong:
                    self._fail(operation, wrong)
                    break

    def _wrong_hits(self, query: int, hits: list[tuple[str, str, float]], top_k: int, contents: dict[str, str]) -> str:
        """What is wrong with the hits of one query; empty where nothing is."""
        if len(hits) != min(top_k, len(contents)):
            return f"{len(hits)} hits for top_k {top_k} of {len(contents)} passages: {hits}; they were {contents}"
        scores = self._scores[query]
        previous = None
        found = set()
        for passage, version, score in hits:
            if contents.get(passage) != version:
                return f"it found {passage} as {version}, which was {contents.get(passage)}"
            if passage in found:
                return f"it found {passage} twice"
            found.add(passage)
            if abs(score - scores[_palette(version)]) > TOLERANCE:
                return f"it scored {passage} ({version}) {score} instead of {scores[_palette(version)]}"
            if previous is not None and (-previous[2], previous[0]) > (-score, passage):
                return f"{previous} comes before {(passage, version, score)}"
            previous = (passage, version, score)
        if len(hits) < len(contents) and hits:
            last_id, last_version, last_score = hits[-1]
            for passage, version in contents.items():
                if passage in found:
                    continue
                same = _palette(version) == _palette(last_version)
                if scores[_palette(version)] > last_score + TOLERANCE or (same and passage < last_id):
                    return f"{passage} ({version}) is better than {hits[-1]} and was left out"
        return ""
