"""Kills a server by SIGKILL at random moments of ingest, import, upsert, deletion, fold and activation, and looks at what it left.

Five clients work at once until the server dies under them; then it is started again on the same folder:
  * `writes`: upserts and deletions of pairs. What was acknowledged is there; a pair is never torn apart; what was under way is there
    whole or not at all. Meanwhile they are folded into new generations, again and again; none is left of folds that did not come to their end.
  * `builds`: whole corpora ingested as new generations. The active one is complete, of one corpus only, and not older than the last
    acknowledged; each generation verifies.
  * `imports`: archives of a whole corpus each, imported. As `builds`.
  * `swaps`: activations of two generations in turn, with REPLAY, and upserts between them. No acknowledged upsert is lost.

LOCI_KILL_ITERATIONS (default 4) and LOCI_KILL_SEED set how often and where. The server is $LOCI_SERVER_BINARY.
"""

import os
import random
import signal
import tempfile
import threading
import time
import unittest

import grpc
from loci_server import ReflectionClient, ServerProcess, main

ITERATIONS = int(os.environ.get("LOCI_KILL_ITERATIONS", "4"))
SEED = int(os.environ.get("LOCI_KILL_SEED", "20261121"))
PAIRS = 12
CORPUS_SIZE = 40
ABSENT = -1


class Worker(threading.Thread):
    """Repeats `step` until the server is gone; any other error than that is kept."""

    def __init__(self, step):
        super().__init__()
        self.step = step
        self.error = None

    def run(self):
        try:
            while True:
                self.step()
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                self.error = error
        except Exception as error:  # pylint: disable=broad-except
            self.error = error


class KillServerTest(unittest.TestCase):
    def setUp(self):
        self.random = random.Random(SEED)
        self.data_dir = tempfile.TemporaryDirectory(prefix="loci_kill_")
        self.addCleanup(self.data_dir.cleanup)
        self.client = None
        self.version = 0
        # Pair -> versions that it may have: the acknowledged one, and one under way.
        self.pairs = {pair: {ABSENT} for pair in range(PAIRS)}
        self.acknowledged_corpus = 0
        self.started_corpus = 0
        # Corpora of "imports", as those of "builds", and their archives.
        self.archives = []
        self.acknowledged_import = 0
        self.started_import = 0
        self.swap_generations = []
        self.swap_ids = set()
        self.acknowledgements = 0
        self.folds = 0

    def passage(self, passage_id, text):
        return self.client.message("Passage", id=passage_id, text=text)

    # --- What the clients do ---

    def write_pair(self):
        pair = self.random.randrange(PAIRS)
        self.version += 1
        ids = [f"{pair}-left", f"{pair}-right"]
        delete = self.random.random() < 0.25
        target = ABSENT if delete else self.version
        self.pairs[pair].add(target)
        if delete:
            self.client.call("AdminService.DeletePassages", store="writes", ids=ids)
        else:
            self.client.call("AdminService.UpsertPassages", store="writes", passages=[self.passage(i, str(target)) for i in ids])
        self.pairs[pair] = {target}
        self.acknowledgements += 1

    def fold(self):
        folded = self.client.call("AdminService.FoldStore", store="writes")
        self.folds += bool(folded.previous_generation)
        time.sleep(0.002)  # There may have been nothing to fold.

    def build(self):
        self.started_corpus += 1
        corpus = self.started_corpus
        batches = [{"passages": [self.passage(f"p{i}", str(corpus)) for i in range(first, first + 10)]}
                   for first in range(0, CORPUS_SIZE, 10)]
        self.client.ingest({"store": "builds"}, batches)
        self.acknowledged_corpus = corpus
        self.acknowledgements += 1

    def import_archive(self):
        self.started_import += 1
        self.client.import_store({"store": "imports"}, self.archives[self.started_import % len(self.archives)])
        self.acknowledged_import = self.started_import
        self.acknowledgements += 1

    def swap(self):
        self.version += 1
        new_id = f"new-{self.version}"
        self.client.call("AdminService.UpsertPassages", store="swaps", passages=[self.passage(new_id, "text")])
        self.swap_ids.add(new_id)
        generation = self.swap_generations[self.version % 2]
        self.client.call("AdminService.ActivateGeneration", store="swaps", generation=generation,
                         writes_since=self.client.value("WritesSince", "WRITES_SINCE_REPLAY"))
        self.acknowledgements += 1

    # --- What must hold after a restart ---

    def text_of(self, store, passage_id):
        try:
            return self.client.call("AdminService.GetPassages", store=store, ids=[passage_id]).passages[0].text
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return None
            raise

    def check_writes(self):
        for pair, allowed in self.pairs.items():
            left, right = self.text_of("writes", f"{pair}-left"), self.text_of("writes", f"{pair}-right")
            self.assertEqual(left, right, f"pair {pair} was torn apart")
            found = ABSENT if left is None else int(left)
            self.assertIn(found, allowed, f"pair {pair}: acknowledged or under way were {allowed}")
            self.pairs[pair] = {found}
        listed = {g.generation for g in self.client.call("AdminService.ListGenerations", store="writes").generations}
        self.assertEqual(self.on_disk("writes"), listed, "something is left of folds that did not come to their end")

    def on_disk(self, store):
        return {name for name in os.listdir(os.path.join(self.data_dir.name, "stores", store)) if name[:1].isdigit()}

    def check_generations(self, store):
        """That all of a store is whole; the others than the active one go. Returns what its passages' one text says."""
        texts = {p.text for p in self.client.call("AdminService.GetPassages", store=store,
                                                  ids=[f"p{i}" for i in range(CORPUS_SIZE)]).passages}
        self.assertEqual(len(texts), 1, "two corpora are mixed")
        listed = self.client.call("AdminService.ListGenerations", store=store)
        for generation in listed.generations:
            self.assertEqual(generation.passage_count, CORPUS_SIZE)
            self.client.call("AdminService.VerifyGeneration", store=store, generation=generation.generation)
            if generation.generation != listed.generation:
                self.client.call("AdminService.DeleteGeneration", store=store, generation=generation.generation)
        self.assertEqual(self.on_disk(store), {listed.generation}, "something is left of what did not come to its end")
        return int(texts.pop())

    def check_imports(self):
        corpus = self.check_generations("imports")
        count = len(self.archives)
        self.assertIn(corpus, {number % count for number in range(self.acknowledged_import, self.started_import + 1)})

    def check_builds(self):
        corpus = self.check_generations("builds")
        self.assertGreaterEqual(corpus, self.acknowledged_corpus)
        self.assertLessEqual(corpus, self.started_corpus)
        self.acknowledged_corpus = corpus

    def check_swaps(self):
        listed = self.client.call("AdminService.ListGenerations", store="swaps")
        self.assertIn(listed.generation, self.swap_generations)
        base = "even" if listed.generation == self.swap_generations[0] else "odd"
        self.assertEqual(self.text_of("swaps", "base"), base)
        if self.swap_ids:
            self.client.call("AdminService.GetPassages", store="swaps", ids=sorted(self.swap_ids))

    def start(self):
        server = ServerProcess(self.data_dir.name)
        self.client = ReflectionClient(server.address)
        return server

    def test_nothing_acknowledged_is_lost(self):
        server = self.start()
        self.client.call("AdminService.CreateStore", store="writes")
        self.client.call("AdminService.UpsertPassages", store="writes", passages=[self.passage("first", "text")])
        self.build()
        for number in range(3):
            self.client.ingest({"store": "source"}, [{"passages": [self.passage(f"p{i}", str(number)) for i in range(CORPUS_SIZE)]}])
            self.archives.append(self.client.export_store(store="source"))
        self.import_archive()
        for base in ("even", "odd"):
            reply = self.client.ingest({"store": "swaps"}, [{"passages": [self.passage("base", base)]}])
            self.swap_generations.append(reply.generation)
        for iteration in range(ITERATIONS):
            moment_s = self.random.uniform(0.0, 0.8)
            with self.subTest(iteration=iteration, seed=SEED, moment_s=moment_s):
                workers = [Worker(step) for step in (self.write_pair, self.fold, self.build, self.import_archive, self.swap)]
                for worker in workers:
                    worker.start()
                time.sleep(moment_s)
                server.process.send_signal(signal.SIGKILL)
                server.process.wait()
                for worker in workers:
                    worker.join()
                self.client.close()
                server.process.stdout.close()
                server = self.start()
                for worker in workers:
                    self.assertIsNone(worker.error)
                self.check_writes()
                self.check_builds()
                self.check_imports()
                self.check_swaps()
        self.client.close()
        self.assertEqual(server.stop(), 0)
        print(f"{ITERATIONS} kills, {self.acknowledgements} acknowledgements and {self.folds} folds, none lost", flush=True)
        self.assertGreater(self.acknowledgements, ITERATIONS // 2)

    def test_an_ingest_that_was_killed_is_taken_up(self):
        count = 4096
        server = self.start()
        batches = lambda: ({"passages": [self.passage(f"p{i}", f"number {i}") for i in range(first, first + 256)]}
                           for first in range(0, count, 256))
        journal = os.path.join(self.data_dir.name, "stores", "taken-up", "encoded", "00000001")

        def ingest():
            with self.assertRaises(grpc.RpcError):
                self.client.ingest({"store": "taken-up"}, batches())

        ingesting = threading.Thread(target=ingest)
        ingesting.start()
        deadline = time.monotonic() + 60
        while not (os.path.exists(journal) and os.path.getsize(journal) > 100_000) and time.monotonic() < deadline:
            time.sleep(0.005)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        ingesting.join()
        self.client.close()
        server.process.stdout.close()

        server = self.start()
        # The record that was being written when the power went, say.
        with open(journal, "r+b") as file:
            file.truncate(os.path.getsize(journal) - 100)
        again = self.client.ingest({"store": "taken-up"}, batches())
        whole = self.client.ingest({"store": "whole"}, batches())
        self.assertGreater(again.reused_count, 0)
        self.assertLess(again.reused_count, count)
        self.assertEqual((again.passage_count, whole.passage_count, whole.reused_count), (count, count, 0))
        self.assertFalse(os.path.exists(os.path.dirname(journal)))
        ids = [f"p{i}" for i in range(count)]
        vectors = [self.client.call("AdminService.GetPassages", store=store, ids=ids, include_vectors=True).vectors.data
                   for store in ("taken-up", "whole")]
        self.assertEqual(vectors[0], vectors[1])
        self.client.close()
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    main()
