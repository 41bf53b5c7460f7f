"""Replacing the passages changes what is answered: one encoder and one reader, two dated versions of one corpus.

office_holders.tsv has who held an office at the end of December 2012 and of December 2022 (public facts). Each version of the corpus has a passage
of each office, each sentence of which names the holder (the reader answers with a sentence), beside passages that name the office alone. Every question is asked of both versions; an answer counts where it
names the year's holder. Lewis et al. (2020, RAG, section 4.5) swap Wikipedia's index likewise: 70 % and 68 % of their answers fit the index
that serves, 12 % and 4 % the other one. The server is $LOCI_SERVER_BINARY.
"""

from __future__ import annotations

import os
import unittest

from loci_server import ReflectionClient, ServerProcess, main

HERE = os.path.dirname(os.path.abspath(__file__))
YEARS = (2012, 2022)


def capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


def offices() -> list[tuple[str, tuple[str, str]]]:
    with open(os.path.join(HERE, "office_holders.tsv"), encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    return [(office, (first, second)) for office, first, second in rows]


def corpus(version: int) -> list[dict[str, str]]:
    """The same ids in each version; only what depends on the year differs."""
    passages = []
    for number, (office, holders) in enumerate(offices()):
        passages.append({
            "id": f"{number}/holder", "title": capitalised(office),
            "text": f"As of December {YEARS[version]} the {office} is {holders[version]}. {holders[version]} came into office after a predecessor left "
                    "it, and speaks in public every week."})
        passages.append({
            "id": f"{number}/office", "title": f"Office of the {office}",
            "text": f"This page describes how the {office} comes into office and what the duties are. A term ends with a resignation, a death or the "
                    "choice of a successor."})
    return passages


class SwapAnswersTest(unittest.TestCase):
    def setUp(self) -> None:
        self.server = ServerProcess()
        self.client = ReflectionClient(self.server.address)

    def tearDown(self) -> None:
        self.client.close()
        self.assertEqual(self.server.stop(), 0)

    def named_holders(self, expected_generation: str) -> list[tuple[bool, bool]]:
        """For each office, whether the answer names the holder of the first and of the second version."""
        named = []
        for office, holders in offices():
            reply = self.client.call("RetrievalService.Answer", store="offices", question=f"Who is the {office}?")
            self.assertEqual(reply.generation, expected_generation)
            text = reply.answers[0].text if reply.answers else ""
            named.append(tuple(holder in text for holder in holders))
        return named

    def test_answers_follow_the_store_that_serves(self) -> None:
        generations = []
        for version in range(2):
            passages = [self.client.message("Passage", **passage) for passage in corpus(version)]
            generations.append(self.client.ingest({"store": "offices", "no_activate": True}, [{"passages": passages}]).generation)
        count = len(offices())
        for serving in (0, 1, 0):  # There and back.
            self.client.call("AdminService.ActivateGeneration", store="offices", generation=generations[serving])
            named = self.named_holders(generations[serving])
            matched = sum(names[serving] for names in named) / count
            mismatched = sum(names[1 - serving] for names in named) / count
            print(f"passages of {YEARS[serving]}: {matched:.3f} of {count} answers name the holder of {YEARS[serving]}, {mismatched:.3f} that of "
                  f"{YEARS[1 - serving]}", flush=True)
            self.assertGreaterEqual(matched, 0.9)
            self.assertLessEqual(mismatched, 0.1)


if __name__ == "__main__":
    main()
