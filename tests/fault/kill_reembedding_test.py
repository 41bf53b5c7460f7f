"""Kills a server by SIGKILL while a store is re-embedded again and again, by two encoders in turn, and looks at what it left.

Passages are written and deleted all the while, and every third time the store is rolled back instead. A kill comes at a random moment after none, one
or two re-embeddings came to their end, or in the midst of the encoding of one that is given little of the encoder. After each, nothing acknowledged is
lost, neither a write nor a switch, and the store answers as one that was ingested freshly with the encoder that serves; so it does when a re-embedding
that was killed in the midst was taken up.

LOCI_KILL_ITERATIONS (default 6) and LOCI_KILL_SEED set how often and where. The server is $LOCI_SERVER_BINARY, with the tiny encoder that
$LOCI_WRITE_TINY_CHECKPOINT writes.
"""

import collections
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
import unittest

import grpc
from loci_server import ReflectionClient, ServerProcess, main, perturbed_checkpoint

ITERATIONS = int(os.environ.get("LOCI_KILL_ITERATIONS", "6"))
SEED = int(os.environ.get("LOCI_KILL_SEED", "20261122"))
COUNT = 600
WRITTEN = 60  # Of those, the ones that are written again and deleted.
LITTLE_SHARE = 0.01
DEADLINE_S = 60
WORDS = "red blue house river music stone light seven".split()


def is_gone(error):
    return error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


class KillReembeddingTest(unittest.TestCase):
    def setUp(self):
        self.random = random.Random(SEED)
        self.data_dir = tempfile.TemporaryDirectory(prefix="loci_kill_")
        self.addCleanup(self.data_dir.cleanup)
        self.models = tempfile.TemporaryDirectory(prefix="loci_models_")
        self.addCleanup(self.models.cleanup)
        tiny = os.path.join(self.models.name, "tiny")
        subprocess.run([os.environ["LOCI_WRITE_TINY_CHECKPOINT"], tiny], check=True)
        os.environ["LOCI_MODEL_DIR"] = tiny
        perturbed_checkpoint(tiny, os.path.join(self.models.name, "other"))
        # Id -> texts that it may have (None: no such passage): the acknowledged one, and one under way.
        self.texts = {f"p{i}": {self.text(i, 0)} for i in range(COUNT)}
        self.version = 0
        self.serving = set()  # Fingerprints that may serve: the acknowledged one, and that of a switch under way.
        self.counts = collections.Counter()
        self.errors = []
        self.share = 0.0
        self.switches = 0  # That were begun.
        self.finished = 0  # Re-embeddings since the last kill.

    def text(self, number, version):
        return f"{WORDS[number % 8]} {WORDS[number // 8 % 8]} number {number} version {version}"

    def passages(self, texts):
        return [self.client.message("Passage", id=i, text=text) for i, text in texts.items()]

    def start(self):
        server = ServerProcess(self.data_dir.name)
        self.client = ReflectionClient(server.address)
        return server

    # --- What goes on until the server is gone ---

    def repeat(self, step):
        def run():
            try:
                while True:
                    step()
            except grpc.RpcError as error:
                if not is_gone(error):
                    self.errors.append(error)
            except Exception as error:  # pylint: disable=broad-except
                self.errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def write(self):
        self.version += 1
        number = self.version * 7 % WRITTEN
        passage_id, text = f"p{number}", None if self.version % 5 == 0 else self.text(number, self.version)
        self.texts[passage_id].add(text)
        if text is None:
            self.client.call("AdminService.DeletePassages", store="s", ids=[passage_id])
        else:
            self.client.call("AdminService.UpsertPassages", store="s", passages=self.passages({passage_id: text}))
        self.texts[passage_id] = {text}
        self.counts["writes"] += 1

    def switch(self):
        self.switches += 1
        self.reembed(roll_back=self.share == 0 and self.switches % 3 == 0)

    def reembed(self, roll_back=False):
        acknowledged, = self.serving
        target = next(encoder for encoder in self.encoders if encoder != acknowledged)
        self.serving.add(target)
        kind = "roll-backs" if roll_back else "re-embeddings"
        try:
            if roll_back:
                self.client.call("AdminService.RollbackStore", store="s", writes_since=self.client.value("WritesSince", "WRITES_SINCE_REPLAY"))
            else:
                reply = self.client.call("AdminService.ReembedStore", timeout=DEADLINE_S, store="s", encoder=target, max_encoder_share=self.share)
                self.counts["passages taken over"] += reply.reused_count
                self.assertEqual(reply.encoder_fingerprint, target)
        except grpc.RpcError as error:
            if is_gone(error):
                self.counts[kind + " killed"] += 1
            raise
        self.serving = {target}
        self.counts[kind + " finished"] += 1
        self.finished += not roll_back

    def wait_until(self, condition):
        """Gives up at the deadline, and where a client failed: what was waited for is counted in the end."""
        deadline = time.monotonic() + DEADLINE_S
        while not self.errors and time.monotonic() < deadline:
            if condition():
                return
            time.sleep(0.002)

    def is_encoding(self):
        """Also that what is encoded is kept on the disk."""
        kept = os.path.join(self.data_dir.name, "stores", "s", "encoded")
        try:
            if sum(entry.stat().st_size for entry in os.scandir(kept)) < 4096:
                return False
        except FileNotFoundError:  # Not yet, or not any more.
            return False
        jobs = self.client.call("AdminService.ListJobs", store="s").jobs
        return any(job.kind == "reembed" and job.phase == "encoding" and job.done > 0 and not job.finished_unix_us for job in jobs)

    # --- What must hold after a restart ---

    def check(self):
        found = {}
        for passage_id, allowed in self.texts.items():
            if len(allowed) == 1 and None not in allowed:
                continue
            try:
                found[passage_id] = self.client.call("AdminService.GetPassages", store="s", ids=[passage_id]).passages[0].text
            except grpc.RpcError as error:
                self.assertEqual(error.code(), grpc.StatusCode.NOT_FOUND)
                found[passage_id] = None
            self.assertIn(found[passage_id], allowed)
            self.texts[passage_id] = {found[passage_id]}
        texts = {i: text for i, (text,) in self.texts.items() if text is not None}
        serving = self.client.call("AdminService.GetStore", store="s").store.encoder_fingerprint
        self.assertIn(serving, self.serving)
        self.serving = {serving}
        self.client.ingest({"store": "fresh", "encoder_fingerprint": serving}, [{"passages": self.passages(texts)}])
        contents, hits = [], []
        for store in ("s", "fresh"):
            reply = self.client.call("AdminService.GetPassages", store=store, ids=list(texts), include_vectors=True)
            contents.append(([(p.id, p.text) for p in reply.passages], reply.vectors.data))
            queries = [self.client.message("Query", text=f"{word} number {number}") for number, word in enumerate(WORDS)]
            reply = self.client.call("RetrievalService.Search", store=store, top_k=20, queries=queries)
            self.assertEqual(reply.encoder_fingerprint, serving)
            hits.append([sorted((-hit.score, hit.id) for hit in result.hits) for result in reply.results])
        self.assertEqual(contents[0][0], list(texts.items()))
        self.assertEqual(contents[0], contents[1])
        self.assertEqual(hits[0], hits[1])
        self.assertEqual(self.client.call("AdminService.GetStore", store="s").store.passage_count, len(texts))
        listed = self.client.call("AdminService.ListGenerations", store="s")
        names = sorted(g.generation for g in listed.generations)
        folder = os.path.join(self.data_dir.name, "stores", "s")
        self.assertEqual(sorted(name for name in os.listdir(folder) if name[:1].isdigit()), names, "something half made is left")
        for name in names:
            self.client.call("AdminService.VerifyGeneration", store="s", generation=name)
        self.client.call("AdminService.DeleteStore", store="fresh", confirm_name="fresh")

    def test_nothing_acknowledged_is_lost_and_answers_are_those_of_a_fresh_ingest(self):
        server = self.start()
        self.client.ingest({"store": "s"}, [{"passages": self.passages({i: text for i, (text,) in self.texts.items()})}])
        self.serving = {self.client.call("AdminService.GetStore", store="s").store.encoder_fingerprint}
        self.encoders = [*self.serving, self.client.import_encoder("other", os.path.join(self.models.name, "other")).encoder.fingerprint]
        began = time.monotonic()
        self.reembed()
        duration_s = time.monotonic() - began
        for iteration in range(ITERATIONS):
            midst = iteration % 2 == 1
            wanted, moment_s = iteration // 2 % 3, self.random.uniform(0, 2 * duration_s)
            with self.subTest(iteration=iteration, seed=SEED, midst=midst, wanted=wanted, moment_s=moment_s):
                self.share, self.finished = LITTLE_SHARE if midst else 0.0, 0
                threads = [self.repeat(step) for step in (self.write, self.switch)]
                try:
                    if midst:
                        self.wait_until(self.is_encoding)
                    else:
                        self.wait_until(lambda: self.finished >= wanted)
                        time.sleep(moment_s)
                finally:
                    server.process.send_signal(signal.SIGKILL)
                    server.process.wait()
                    for thread in threads:
                        thread.join()
                self.client.close()
                server.process.stdout.close()
                self.assertEqual(self.errors, [])
                server = self.start()
                self.check()
                if midst:
                    self.share = 0.0
                    self.reembed()
                    self.check()
        self.client.close()
        self.assertEqual(server.stop(), 0)
        print(f"{ITERATIONS} kills: " + ", ".join(f"{kind} {count}" for kind, count in sorted(self.counts.items())), flush=True)
        self.assertGreater(self.counts["re-embeddings finished"], 1)
        self.assertGreater(self.counts["re-embeddings killed"], 0)
        self.assertGreater(self.counts["passages taken over"], 0)


if __name__ == "__main__":
    main()
