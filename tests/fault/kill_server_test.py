"""Kills a server by SIGKILL at random moments of ingest, import, upsert, deletion, fold, re-embedding and activation, and looks at what it left.

Seven clients work at once until the server dies under them; then it is started again on the same folder:
  * `writes`: upserts and deletions of pairs. What was acknowledged is there; a pair is never torn apart; what was under way is there
    whole or not at all. Meanwhile they are folded into new generations, again and again; none is left of folds that did not come to their end.
  * `builds`: whole corpora ingested as new generations. The active one is complete, of one corpus only, and not older than the last
    acknowledged; each generation verifies.
  * `imports`: archives of a whole corpus each, imported. As `builds`.
  * `swaps`: activations of two generations in turn, with REPLAY, every other two in place, and upserts between them. No acknowledged upsert is lost.
  * `reembeds`: re-embeddings by two encoders in turn, and roll-backs of them, with upserts all the while. No acknowledged upsert is lost, and each
    is found by the encoder that serves.

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
from loci_server import ReflectionClient, ServerProcess, main, perturbed_checkpoint

ITERATIONS = int(os.environ.get("LOCI_KILL_ITERATIONS", "4"))
SEED = int(os.environ.get("LOCI_KILL_SEED", "20261121"))
PAIRS = 12
CORPUS_SIZE = 40
MODEL = os.environ.get("LOCI_MODEL_DIR", "models/all-MiniLM-L6-v2")
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
        self.encoders = []
        self.reembeddings = 0
        self.reembedded_ids = set()
        self.reembedded_number = 0

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
        strategy = "ACTIVATION_STRATEGY_IN_PLACE" if self.version % 4 >= 2 else "ACTIVATION_STRATEGY_BLUE_GREEN"
        self.client.call("AdminService.ActivateGeneration", store="swaps", generation=generation,
                         writes_since=self.client.value("WritesSince", "WRITES_SINCE_REPLAY"),
                         strategy=self.client.value("ActivationStrategy", strategy))
        self.acknowledgements += 1

    def reembed(self):
        """The encoder that does not serve, or, now and then, back to what served before."""
        serving = self.client.call("AdminService.GetStore", store="reembeds").store.encoder_fingerprint
        if self.reembeddings % 3 == 2:
            try:
                self.client.call("AdminService.RollbackStore", store="reembeds",
                                 writes_since=self.client.value("WritesSince", "WRITES_SINCE_REPLAY"))
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.FAILED_PRECONDITION:  # Nothing served before.
                    raise
        else:
            self.client.call("AdminService.ReembedStore", store="reembeds", encoder=next(e for e in self.encoders if e != serving))
        self.reembeddings += 1
        self.acknowledgements += 1

    def write_reembedded(self):
        self.reembedded_number += 1
        new_id = f"new-{self.reembedded_number}"
        self.client.call("AdminService.UpsertPassages", store="reembeds", passages=[self.passage(new_id, f"about number {new_id}")])
        self.reembedded_ids.add(new_id)
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

    def check_reembeds(self):
        ids = sorted(self.reembedded_ids)
        texts = {f"p{i}": f"passage {i}" for i in range(CORPUS_SIZE)} | {i: f"about number {i}" for i in ids}
        found = self.client.call("AdminService.GetPassages", store="reembeds", ids=list(texts), include_vectors=True)
        self.assertEqual({p.id: p.text for p in found.passages}, texts)
        serving = self.client.call("AdminService.GetStore", store="reembeds").store.encoder_fingerprint
        self.assertIn(serving, self.encoders)
        role = self.client.value("TextRole", "TEXT_ROLE_PASSAGE")
        fresh = self.client.call("RetrievalService.Encode", encoder=serving, role=role, texts=[p.text for p in found.passages])
        self.assertEqual(fresh.vectors.data, found.vectors.data, "vectors are not those of the encoder that serves")
        listed = self.client.call("AdminService.ListGenerations", store="reembeds")
        self.assertEqual(self.on_disk("reembeds"), {g.generation for g in listed.generations})
        keep = {g.generation for g in sorted(listed.generations, key=lambda g: g.generation)[-2:]} | {listed.generation}
        for generation in listed.generations:
            if generation.generation not in keep:
                self.client.call("AdminService.DeleteGeneration", store="reembeds", generation=generation.generation)

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
        self.client.ingest({"store": "reembeds"}, [{"passages": [self.passage(f"p{i}", f"passage {i}") for i in range(CORPUS_SIZE)]}])
        self.encoders = [self.client.call("AdminService.GetStore", store="reembeds").store.encoder_fingerprint, self.import_other()]
        for base in ("even", "odd"):
            reply = self.client.ingest({"store": "swaps"}, [{"passages": [self.passage("base", base)]}])
            self.swap_generations.append(reply.generation)
        for iteration in range(ITERATIONS):
            moment_s = self.random.uniform(0.0, 0.8)
            with self.subTest(iteration=iteration, seed=SEED, moment_s=moment_s):
                workers = [Worker(step) for step in (self.write_pair, self.fold, self.build, self.import_archive, self.swap,
                                                        self.reembed, self.write_reembedded)]
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
                self.check_reembeds()
        self.client.close()
        self.assertEqual(server.stop(), 0)
        print(f"{ITERATIONS} kills, {self.acknowledgements} acknowledgements, {self.folds} folds and {self.reembeddings} re-embeddings, none lost", flush=True)
        self.assertGreater(self.acknowledgements, ITERATIONS // 2)

    def import_other(self):
        """A second encoder of the same dimension."""
        with tempfile.TemporaryDirectory(prefix="loci_model_") as folder:
            perturbed_checkpoint(MODEL, os.path.join(folder, "other"))
            return self.client.import_encoder("other", os.path.join(folder, "other")).encoder.fingerprint

    def test_a_reembedding_that_was_killed_is_taken_up(self):
        count = 2048
        server = self.start()
        texts = {f"p{i}": f"number {i} of those that are encoded anew" for i in range(count)}
        passages = [self.passage(i, text) for i, text in texts.items()]
        batches = lambda: ({"passages": passages[first:first + 256]} for first in range(0, count, 256))
        self.client.ingest({"store": "taken-up"}, batches())
        other = self.import_other()
        journal = os.path.join(self.data_dir.name, "stores", "taken-up", "encoded", "00000001")

        def reembed():
            with self.assertRaises(grpc.RpcError):
                self.client.call("AdminService.ReembedStore", store="taken-up", encoder=other, max_encoder_share=0.2)

        running = threading.Thread(target=reembed)
        running.start()
        deadline = time.monotonic() + 60
        while not (os.path.exists(journal) and os.path.getsize(journal) > 100_000) and time.monotonic() < deadline:
            time.sleep(0.005)
        self.client.call("AdminService.UpsertPassages", store="taken-up", passages=[self.passage("p7", "written meanwhile")])
        texts["p7"] = "written meanwhile"
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        running.join()
        self.client.close()
        server.process.stdout.close()

        server = self.start()
        self.assertEqual(len(self.on_disk("taken-up")), 1, "what was half built is gone")
        again = self.client.call("AdminService.ReembedStore", store="taken-up", encoder=other)
        self.assertGreater(again.reused_count, 0)
        self.assertEqual(again.reused_count + again.encoded_count, count)
        self.assertFalse(os.path.exists(os.path.dirname(journal)))
        self.client.ingest({"store": "whole", "encoder_fingerprint": other},
                           ({"passages": [self.passage(i, text) for i, text in list(texts.items())[first:first + 256]]}
                            for first in range(0, count, 256)))
        vectors = [self.client.call("AdminService.GetPassages", store=store, ids=list(texts), include_vectors=True).vectors.data
                   for store in ("taken-up", "whole")]
        self.assertEqual(vectors[0], vectors[1])
        found = [self.client.call("RetrievalService.Search", store=store, top_k=20, queries=[self.client.message("Query", text="number 77")])
                 for store in ("taken-up", "whole")]
        self.assertEqual([(h.id, h.score) for h in found[0].results[0].hits], [(h.id, h.score) for h in found[1].results[0].hits])
        self.assertEqual(found[0].encoder_fingerprint, other)
        self.client.close()
        self.assertEqual(server.stop(), 0)

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
