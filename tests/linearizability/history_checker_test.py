"""The checker of histories finds the faults that are planted, and none where there is none."""

import copy
import random
import unittest

from history_checker import Body, Checker, Operation
from loci_server import main

SCORES = [[0.9, 0.5, 0.1], [0.2, 0.3, 0.8]]
BODIES = {"G": Body(0, {"a": "0.1", "b": "1.2"}), "H": Body(0, {"z": "2.3"})}


def hits(contents, query=0, top_k=100):
    ranked = sorted(contents.items(), key=lambda item: (-SCORES[query][int(item[1].split(".")[0])], item[0]))
    return [(passage, version, SCORES[query][int(version.split(".")[0])]) for passage, version in ranked[:top_k]]


def search(start, end, generation, revision, contents, top_k=100, queries=(0,)):
    return Operation("search", start, end, generation, revision, top_k=top_k,
                     results=[(query, hits(contents, query, top_k)) for query in queries])


def upsert(start, end, generation, revision, **items):
    return Operation("upsert", start, end, generation, revision, items=items)


def delete(start, end, generation, revision, *ids):
    return Operation("delete", start, end, generation, revision, items=dict.fromkeys(ids))


def fold(start, end, generation, revision, previous, base):
    return Operation("fold", start, end, generation, revision, previous=previous, base_revision=base)


def activate(start, end, generation, revision, discard=False, kind="activate"):
    return Operation(kind, start, end, generation, revision, discard=discard)


class HistoryCheckerTest(unittest.TestCase):
    def errors(self, *operations):
        return Checker(BODIES, "G", 1, SCORES).check(list(operations))

    def expect_fault(self, text, *operations):
        errors = self.errors(*operations)
        self.assertTrue(any(text in error for error in errors), errors or "no fault was found")

    def history(self):
        one = {"a": "0.1", "b": "1.2", "c": "2.10"}
        two = {"b": "1.2", "c": "2.10"}
        return [
            search(0, 5, "G", 1, {"a": "0.1", "b": "1.2"}),
            upsert(10, 20, "G", 2, c="2.10"),
            search(11, 12, "G", 1, {"a": "0.1", "b": "1.2"}),
            search(15, 30, "G", 2, one, queries=(0, 1)),
            fold(25, 60, "F", 3, "G", 2),
            delete(31, 40, "G", 3, "a"),
            search(41, 59, "F", 3, two, top_k=1),
            search(60, 65, "F", 3, two),
            Operation("get", 61, 66, "F", 3, items={"c": "2.10"}),
            Operation("get", 61, 66, items={"a": None}),
            activate(70, 80, "H", 4),
            search(81, 85, "H", 4, {"z": "2.3", "c": "2.10"}),
            activate(90, 95, "F", 5, kind="rollback"),
            search(96, 97, "F", 5, two),
            activate(100, 105, "H", 6, discard=True),
            search(106, 107, "H", 6, {"z": "2.3"}),
        ]

    def test_nothing_is_wrong_with_a_history_of_views(self):
        self.assertEqual(self.errors(*self.history()), [])
        for seed in range(20):
            shuffled = self.history()
            random.Random(seed).shuffle(shuffled)
            self.assertEqual(self.errors(*shuffled), [])

    def test_a_lost_write(self):
        self.expect_fault("hits for top_k", upsert(0, 1, "G", 2, c="2.10"),
                          search(2, 3, "G", 2, {"a": "0.1", "b": "1.2"}))
        # Told as of its revision, of which the write is a part; then as of the one before.
        self.expect_fault("goes back", upsert(0, 1, "G", 2, c="2.10"), search(2, 3, "G", 1, {"a": "0.1", "b": "1.2"}))
        self.expect_fault("was not found", upsert(0, 1, "G", 2, c="2.10"), Operation("get", 2, 3, items={"c": None}))
        # By a fold, and by a swap.
        self.expect_fault("hits for top_k", upsert(0, 1, "G", 2, c="2.10"), fold(2, 5, "F", 2, "G", 2),
                          search(6, 7, "F", 2, {"a": "0.1", "b": "1.2"}))
        self.expect_fault("hits for top_k", upsert(0, 1, "G", 2, c="2.10"), activate(2, 3, "H", 3), search(4, 5, "H", 3, {"z": "2.3"}))

    def test_a_stale_read(self):
        before = {"a": "0.1", "b": "1.2"}
        after = {"a": "0.11", "b": "1.2"}
        self.expect_fault("goes back", upsert(0, 1, "G", 2, a="0.11"), search(2, 3, "G", 1, before))
        # While the write is under way both are right, but none after the other.
        self.assertEqual(self.errors(upsert(0, 9, "G", 2, a="0.11"), search(1, 2, "G", 1, before), search(3, 4, "G", 2, after)), [])
        self.expect_fault("goes back", upsert(0, 9, "G", 2, a="0.11"), search(1, 2, "G", 2, after), search(3, 4, "G", 1, before))
        # The old version under the new revision.
        self.expect_fault("which was 0.11", upsert(0, 1, "G", 2, a="0.11"), search(2, 3, "G", 2, before))
        self.expect_fault("and was 0.11", upsert(0, 1, "G", 2, a="0.11"), Operation("get", 2, 3, "G", 2, items={"a": "0.1"}))
        # The generation from before a fold that has ended.
        self.expect_fault("goes back", fold(0, 1, "F", 1, "G", 1), search(2, 3, "G", 1, before))

    def test_a_reply_that_mixes_two_views(self):
        old, new = {"a": "0.1", "b": "1.2"}, {"a": "0.11", "b": "1.12"}
        write = upsert(0, 9, "G", 2, a="0.11", b="1.12")
        for revision in (1, 2):
            self.expect_fault("it found", write, search(1, 8, "G", revision, {"a": "0.11", "b": "1.2"}))
        mixed = search(1, 8, "G", 2, new)
        mixed.results.append((1, hits(old, 1)))
        self.expect_fault("it found", write, mixed)
        # Two generations.
        self.expect_fault("it found", activate(0, 9, "H", 2), search(1, 8, "H", 2, {"a": "0.1"}))
        self.expect_fault("no view has", activate(0, 9, "H", 2), search(1, 8, "G", 2, old))

    def test_a_deletion_that_is_undone(self):
        whole, rest = {"a": "0.1", "b": "1.2"}, {"b": "1.2"}
        self.assertEqual(self.errors(delete(0, 1, "G", 2, "a"), search(2, 3, "G", 2, rest)), [])
        self.expect_fault("hits for top_k", delete(0, 1, "G", 2, "a"), search(2, 3, "G", 2, whole))
        self.expect_fault("hits for top_k", delete(0, 1, "G", 2, "a"), fold(2, 3, "F", 2, "G", 1), search(4, 5, "F", 2, whole))
        self.expect_fault("which was None", delete(0, 1, "G", 2, "a"), fold(2, 3, "F", 2, "G", 2), search(4, 5, "F", 2, {"a": "0.1"}))
        self.expect_fault("and was None", delete(0, 1, "G", 2, "a"), Operation("get", 2, 3, "G", 2, items={"a": "0.1"}))

    def test_a_write_that_is_seen_before_it_began(self):
        self.expect_fault("seen before it began", search(0, 1, "G", 2, {"a": "0.1", "b": "1.2", "c": "2.10"}), upsert(2, 3, "G", 2, c="2.10"))

    def test_revisions_that_can_not_be(self):
        self.expect_fault("an update before it has revision", upsert(0, 1, "G", 2, c="2.10"), upsert(0, 1, "G", 2, d="2.11"))
        self.expect_fault("goes back", upsert(0, 1, "G", 3, c="2.10"), upsert(2, 3, "G", 2, d="2.11"))
        self.expect_fault("nothing has this revision", fold(0, 1, "F", 7, "G", 1))

    def test_hits_that_are_not_the_best(self):
        contents = {"a": "0.1", "b": "1.2"}
        wrong = search(0, 1, "G", 1, contents, top_k=1)
        wrong.results = [(0, [("b", "1.2", 0.5)])]
        self.expect_fault("was left out", wrong)
        wrong = search(0, 1, "G", 1, contents)
        wrong.results[0][1].reverse()
        self.expect_fault("comes before", wrong)
        wrong = search(0, 1, "G", 1, contents)
        wrong.results[0][1][0] = ("a", "0.1", 0.8)
        self.expect_fault("it scored", wrong)
        # Of equal scores the smaller id.
        tie = upsert(0, 1, "G", 2, c="0.7")
        wrong = search(2, 3, "G", 2, contents | {"c": "0.7"}, top_k=1)
        wrong.results = [(0, [("c", "0.7", 0.9)])]
        self.expect_fault("was left out", tie, wrong)

    def test_a_roll_back_goes_to_what_served_before_a_fold(self):
        right = [activate(0, 1, "H", 2), fold(2, 3, "F", 2, "H", 2), activate(4, 5, "G", 3, kind="rollback")]
        self.assertEqual(self.errors(*right), [])
        self.expect_fault("what served before was G", *right[:2], activate(4, 5, "H", 3, kind="rollback"))

    def test_each_single_fault_in_a_long_history_is_found(self):
        for index, operation in enumerate(self.history()):
            if operation.kind != "search":
                continue
            for fault in ("drop", "version", "revision"):
                history = copy.deepcopy(self.history())
                broken = history[index]
                if fault == "drop":
                    broken.results[-1][1].pop()
                elif fault == "version":
                    passage, version, score = broken.results[-1][1][0]
                    broken.results[-1][1][0] = (passage, version + "9", score)
                else:
                    broken.revision += 40
                self.assertNotEqual(self.errors(*history), [], (index, fault))


if __name__ == "__main__":
    main()
