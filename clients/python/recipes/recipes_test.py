"""The recipes' parts without their data: readers whose likelihoods are of distributions, answers found as whole words, a cache that outlives a kill."""

from __future__ import annotations

import itertools
import math
import os
import pathlib
import sys
import tempfile
import types
import unittest

import numpy as np
import torch
from loci_server import main

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from corpus import StateCache, find, shuffled
from reader import MAX_ANSWER_TOKENS, MaskedTokenReader, SpanReader
from report import paired_interval

VOCABULARY, DIM = 12, 8


def span_reader() -> SpanReader:
    torch.manual_seed(3)
    lengths = np.zeros(MAX_ANSWER_TOKENS + 1)
    lengths[1:4] = 5, 3, 1
    reader = SpanReader(torch.randn(VOCABULARY, DIM), np.arange(VOCABULARY, dtype=np.float64), lengths, width=8)
    torch.nn.init.normal_(reader.words.transform.weight, std=0.3)
    return reader.eval()


class ReaderTest(unittest.TestCase):
    def setUp(self) -> None:
        generator = torch.Generator().manual_seed(5)
        self.tokens = torch.tensor([[1, 4, 5, 4, 6, 4, 5, 0], [1, 7, 8, 9, 7, 8, 0, 0]])
        self.states = torch.randn(2, 8, DIM, generator=generator)
        self.asked_tokens = torch.tensor([[1, 5, 3], [1, 8, 0]])
        self.asked = torch.randn(2, 3, DIM, generator=generator)

    def test_spans_of_a_passage_and_words_without_one_share_a_mass_of_one(self) -> None:
        reader = span_reader()
        with torch.no_grad():
            start, end, gate = reader.spans(
                reader.project(self.states, self.tokens), self.tokens, reader.project(self.asked, self.asked_tokens), self.asked_tokens
            )
            for row in range(2):
                answers = {
                    tuple(self.tokens[row, first:last].tolist())
                    for first in range(7)
                    for last in range(first + 1, 8)
                    if (self.tokens[row, first:last] > 0).all()
                }
                total = 0.0
                for answer in answers:
                    places = [i for i in range(8) if tuple(self.tokens[row, i : i + len(answer)].tolist()) == answer]
                    found = torch.zeros(1, 8, dtype=torch.bool)
                    found[0, places] = True
                    length = torch.tensor([len(answer)])
                    value = (
                        reader.likelihood(start[row : row + 1], end[row : row + 1], gate[row : row + 1], found, length, torch.tensor([-math.inf])).exp().item()
                    )
                    by_hand = sum(math.exp(start[row, i] + end[row, i + len(answer) - 1]) for i in places) * torch.sigmoid(gate[row]).item()
                    self.assertAlmostEqual(value, by_hand, places=6)
                    total += value
                self.assertLessEqual(total, torch.sigmoid(gate[row]).item() + 1e-6)

    def test_what_is_known_without_a_passage_is_a_distribution(self) -> None:
        reader = span_reader()
        with torch.no_grad():
            words = reader.words((self.asked * (self.asked_tokens > 0)[:, :, None]).sum(1) / (self.asked_tokens > 0).sum(1, keepdim=True)).exp()
            self.assertTrue(torch.allclose(words.sum(1), torch.ones(2), atol=1e-5))
            for length in (1, 2):
                answers = torch.zeros(VOCABULARY**length, MAX_ANSWER_TOKENS, dtype=torch.int64)
                answers[:, :length] = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=length)))
                count = len(answers)
                values = reader.without_passage(
                    self.asked[:1].expand(count, -1, -1), self.asked_tokens[:1].expand(count, -1), answers, torch.full((count,), length)
                )
                self.assertAlmostEqual(values.exp().sum().item(), reader.log_length[length].exp().item(), places=5)

    def test_masked_tokens_have_a_mass_of_one(self) -> None:
        torch.manual_seed(4)
        reader = MaskedTokenReader(torch.randn(VOCABULARY, DIM), np.ones(VOCABULARY), width=8).eval()
        torch.nn.init.normal_(reader.words.transform.weight, std=0.3)
        with torch.no_grad():
            passage, text = reader.project(self.states, self.tokens), reader.project(self.asked, self.asked_tokens)
            total = torch.zeros(2, 1)
            for token in range(VOCABULARY):
                places, targets = torch.ones(2, 1, dtype=torch.int64), torch.full((2, 1), token)
                null = reader.without_passage(self.asked, places, targets)
                value = reader(passage, self.tokens, text, self.asked_tokens, places, targets, null)
                self.assertTrue((value <= 0).all())
                total += value.exp()
            self.assertTrue(torch.allclose(total, torch.ones(2, 1), atol=1e-5), total)


class CorpusTest(unittest.TestCase):
    def test_answers_are_found_as_whole_words(self) -> None:
        continues = np.zeros(10, bool)
        continues[9] = True
        tokens = np.array([[1, 4, 5, 4, 5, 9, 2, 0], [4, 5, 2, 0, 0, 0, 0, 0], [0] * 8, [1, 2, 3, 6, 7, 8, 4, 5]], np.int32)
        self.assertEqual(np.argwhere(find(tokens, [4, 5], continues)).tolist(), [[0, 1], [1, 0]])  # Not before 9, nor where the end can't be seen.
        for nothing in ([], [4] * 8, [4] * 20):
            self.assertFalse(find(tokens, nothing, continues).any())

    def test_an_order_depends_on_the_items_alone(self) -> None:
        self.assertEqual(shuffled(["a", "b", "c", "d", "e"]), shuffled(["e", "c", "a", "d", "b"]))
        self.assertNotEqual(shuffled([str(i) for i in range(50)], "one"), shuffled([str(i) for i in range(50)], "other"))

    def test_the_cache_keeps_rows_and_survives_a_kill(self) -> None:
        class Letters:
            cls, sep = 1, 2

            def encode(self, texts):
                return [types.SimpleNamespace(ids=[3 + ord(letter) % 7 for letter in text]) for text in texts]

        asked = []

        def encode(ids, mask):
            asked.extend(ids.tolist())
            return torch.stack([ids.float(), mask.float()], 2)

        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder)
            cache = StateCache(path, Letters(), encode, 6, 2)
            rows = cache.rows(["abc", "defghij", "", "abc"])
            self.assertEqual((rows[0], len(asked)), (rows[3], 3))
            before = cache.states[rows].copy()
            self.assertTrue((before[0, :5, 0] == cache.token_ids[rows[0], :5]).all() and not before[0, 5:].any())
            self.assertTrue(np.allclose(np.linalg.norm(cache.vectors[rows], axis=1), 1))
            # Killed between the states and the keys, and within a key.
            for name in ("states.f16", "keys"):
                with open(path / name, "ab") as file:
                    file.write(b"x" * 11)
            again = StateCache(path, Letters(), encode, 6, 2)
            more = again.rows(["zz", "abc", "defghij", ""])
            self.assertEqual(len(asked), 4)
            self.assertEqual(again.token_ids[more[0], 0], 1)
            self.assertTrue((again.states[again.rows(["abc", "defghij", "", "abc"])] == before).all())
            # The first one has not seen what the second added.
            self.assertEqual(cache.rows(["zz", "y"]).tolist(), [more[0], 4])
            self.assertEqual(len(asked), 5)


class ReportTest(unittest.TestCase):
    def test_the_interval_is_students(self) -> None:
        mean, low, high = paired_interval([1.0, 2.0, 3.0, 4.0, 5.0])
        self.assertAlmostEqual(mean, 3.0)
        self.assertAlmostEqual(high - 3.0, 2.776 * math.sqrt(2.5 / 5), places=3)  # scipy.stats.t.ppf(0.975, 4) is 2.7764.
        self.assertAlmostEqual(3.0 - low, high - 3.0)


if __name__ == "__main__":
    main()
