"""Records concurrent searches, reads, upserts, deletions, folds, activations and roll-backs against a real server, and checks that each
reply is that of exactly one view which real time allows (see history_checker.py).

LOCI_LINEARIZABILITY_OPERATIONS (default 5000) are begun in all; those without effect are left out of what is printed. The server is $LOCI_SERVER_BINARY, with the tiny encoder that
$LOCI_WRITE_TINY_CHECKPOINT writes. By hand, 100,000 of them in a minute:

    bazel test //tests/linearizability:linearizability_test --test_output=all --test_timeout=3600 \\
        --test_env=LOCI_LINEARIZABILITY_OPERATIONS=101000 --test_env=LOCI_PYTHON
"""

import array
import collections
import os
import random
import subprocess
import tempfile
import threading
import time
import unittest

import grpc

from history_checker import Body, Checker, Operation
from loci_server import ReflectionClient, ServerProcess, error_info, main

OPERATIONS = int(os.environ.get("LOCI_LINEARIZABILITY_OPERATIONS", "5000"))
IDS = [f"p{i:02}" for i in range(20)]
PALETTE = 24
SEARCHERS, WRITERS = 4, 3


def text_of(entry):
    words = ["red", "blue", "house", "river", "music", "stone", "light", "seven"]
    return f"{words[entry % 8]} {words[entry * 5 // 8 % 8]} {entry} {'x' * (entry % 5)}"


class Recorder:
    def __init__(self, address):
        self.client = ReflectionClient(address)
        self.address = address
        self.numbers = iter(range(1_000, 1 << 60))
        self.lock = threading.Lock()
        self.left = OPERATIONS
        self.history = []
        self.failures = []
        self.counts = collections.Counter()
        self.folding = threading.Lock()  # Held while a fold runs: most swaps wait for it, else none would come to its end.

    # --- Before the threads start ---

    def passage(self, client, passage_id, version):
        metadata = {"version": client.message("MetadataValue", string_value=version)}
        return client.message("Passage", id=passage_id, text=text_of(int(version.split(".")[0])), metadata=metadata)

    def ingest(self, contents, activate=True):
        passages = [self.passage(self.client, *item) for item in contents.items()]
        return self.client.ingest({"store": "s", "no_activate": not activate}, [{"passages": passages}])

    def prepare(self):
        """Three generations, and the scores of the palette's texts for two queries."""
        self.ingest({f"q{entry:02}": f"{entry}.{entry}" for entry in range(PALETTE)})
        reply = self.client.call("AdminService.GetPassages", store="s", ids=[f"q{entry:02}" for entry in range(PALETTE)], include_vectors=True)
        values = array.array("f", reply.vectors.data)
        dim = reply.vectors.cols
        vectors = [values[row * dim:(row + 1) * dim] for row in range(PALETTE)]
        self.queries = [vectors[3], array.array("f", [1.0 if i % 3 == 0 else -0.25 for i in range(dim)])]
        self.scores = [[sum(a * b for a, b in zip(query, vector)) for vector in vectors] for query in self.queries]
        bodies = {}
        active = reply.generation
        for number in range(3):
            contents = {IDS[i]: f"{(i * (number + 1)) % PALETTE}.{100 * number + i}" for i in range(number, len(IDS), number + 2)}
            generation = self.ingest(contents, activate=number == 0).generation
            bodies[generation] = contents
            active = generation if number == 0 else active
        listed = self.client.call("AdminService.ListGenerations", store="s")
        self.bodies = {info.generation: Body(info.base_revision, bodies[info.generation])
                       for info in listed.generations if info.generation in bodies}
        self.known = set(bodies)
        # The first one, of the palette, is out of the history's way.
        first = next(info.generation for info in listed.generations if info.generation not in bodies)
        self.client.call("AdminService.DeleteGeneration", store="s", generation=first)
        self.active, self.revision = active, listed.revision
        assert listed.generation == active

    # --- What the threads do ---

    def take(self):
        with self.lock:
            self.left -= 1
            return self.left >= 0

    def record(self, operation, call, fill, expected=()):
        """Calls and keeps what came, but for errors with one of the expected reasons, which change nothing."""
        operation.start = time.perf_counter_ns()
        try:
            reply = call()
        except grpc.RpcError as error:
            operation.end = time.perf_counter_ns()
            try:
                reason = error_info(error).reason
            except AssertionError:
                reason = ""
            if reason not in expected:
                with self.lock:
                    self.failures.append(f"{operation.kind}: {error.code()} {reason} {error.details()}")
                return None
            self.counts[reason] += 1
            if operation.kind != "get" and os.environ.get("LOCI_LINEARIZABILITY_VERBOSE"):
                print(operation, reason, error.details(), flush=True)
            return error
        operation.end = time.perf_counter_ns()
        operation.generation, operation.revision = reply.generation, reply.revision
        fill(operation, reply)
        self.history.append(operation)
        return reply

    def search(self, client, rng):
        queries = rng.sample(range(len(self.queries)), rng.choice((1, 2)))
        top_k = rng.choice((1_000, 1_000, 3))
        messages = []
        for query in queries:
            vector = client.message("Matrix", rows=1, cols=len(self.queries[query]), type=client.value("VectorType", "VECTOR_TYPE_FLOAT32"),
                                    data=self.queries[query].tobytes())
            messages.append(client.message("Query", vector=vector))

        def fill(operation, reply):
            operation.results = [
                (query, [(hit.id, hit.passage.metadata["version"].string_value, hit.score) for hit in result.hits])
                for query, result in zip(queries, reply.results)]

        self.record(Operation("search", 0, 0, top_k=top_k),
                    lambda: client.call("RetrievalService.Search", store="s", queries=messages, top_k=top_k, include_text=True), fill)

    def get(self, client, rng):
        passage_id = rng.choice(IDS)

        def fill(operation, reply):
            operation.items = {passage_id: reply.passages[0].metadata["version"].string_value}

        operation = Operation("get", 0, 0, items={passage_id: None})
        missed = self.record(operation, lambda: client.call("AdminService.GetPassages", store="s", ids=[passage_id]), fill,
                             expected=("PASSAGE_NOT_FOUND",))
        if isinstance(missed, grpc.RpcError):
            self.history.append(operation)

    def write(self, client, rng):
        ids = rng.sample(IDS, rng.choice((1, 1, 2, 4)))
        if rng.random() < 0.4:
            self.record(Operation("delete", 0, 0, items=dict.fromkeys(ids)),
                        lambda: client.call("AdminService.DeletePassages", store="s", ids=ids), lambda operation, reply: None)
            return
        with self.lock:
            items = {passage_id: f"{rng.randrange(PALETTE)}.{next(self.numbers)}" for passage_id in ids}
        passages = [self.passage(client, *item) for item in items.items()]
        self.record(Operation("upsert", 0, 0, items=items),
                    lambda: client.call("AdminService.UpsertPassages", store="s", passages=passages), lambda operation, reply: None)

    def fold(self, client, rng):
        def fill(operation, reply):
            operation.previous, operation.base_revision = reply.previous_generation, reply.base_revision
            if not reply.previous_generation:  # There was nothing to fold: nothing was changed.
                self.counts["nothing to fold"] += 1
                operation.kind = "nothing"
            self.known.add(reply.generation)

        with self.folding:
            self.record(Operation("fold", 0, 0), lambda: client.call("AdminService.FoldStore", store="s"), fill,
                        expected=("GENERATION_CHANGED", "JOB_IN_THE_WAY"))

    def swap(self, client, rng):
        if rng.random() < 0.75:
            with self.folding:
                self.swap_now(client, rng)
        else:
            self.swap_now(client, rng)

    def swap_now(self, client, rng):
        discard = rng.random() < 0.3
        since = client.value("WritesSince", "WRITES_SINCE_DISCARD" if discard else "WRITES_SINCE_REPLAY")

        def fill(operation, reply):
            operation.discard = discard and reply.writes_since_count > 0
            if reply.generation == reply.previous_generation and not operation.discard:
                operation.kind = "nothing"

        if rng.random() < 0.4:
            self.roll_back(client, since, fill)
            return
        listed = client.call("AdminService.ListGenerations", store="s")
        # Not what a fold is building.
        others = [info.generation for info in listed.generations
                  if info.generation != listed.generation and info.generation in self.known]
        if not others:
            return
        target = rng.choice(others)
        # A fold may take its place, and retention delete it, before the request comes to it.
        self.record(Operation("activate", 0, 0),
                    lambda: client.call("AdminService.ActivateGeneration", store="s", generation=target, writes_since=since), fill,
                    expected=("JOB_IN_THE_WAY", "GENERATION_NOT_FOUND"))

    def roll_back(self, client, since, fill):
        self.record(Operation("rollback", 0, 0), lambda: client.call("AdminService.RollbackStore", store="s", writes_since=since), fill,
                    expected=("NO_PREVIOUS_GENERATION", "JOB_IN_THE_WAY"))

    def finish(self):
        """One of each by itself, so that each has been there."""
        rng = random.Random(1)
        self.left = 1 << 30
        for kind in ("activate", "fold", "rollback"):
            while not self.failures and not any(operation.kind == kind for operation in self.history[-30:]):
                self.write(self.client, rng)
                if kind == "fold":
                    self.fold(self.client, rng)
                elif kind == "rollback":
                    self.roll_back(self.client, self.client.value("WritesSince", "WRITES_SINCE_REPLAY"), lambda operation, reply: None)
                else:
                    self.swap_now(self.client, rng)
                self.search(self.client, rng)

    def run(self, seed, actions):
        client = ReflectionClient(self.address, like=self.client)
        rng = random.Random(seed)
        while not self.failures and self.take():
            rng.choice(actions)(client, rng)
        client.close()

    def run_seldom(self, seed, action, every):
        """One operation, and the next once `every` others were done."""
        client = ReflectionClient(self.address, like=self.client)
        rng = random.Random(seed)
        while not self.failures and self.take():
            action(client, rng)
            at = self.left - every
            while self.left > max(at, 0) and not self.failures:
                time.sleep(0.001)
        client.close()


class LinearizabilityTest(unittest.TestCase):
    def test_every_reply_is_that_of_one_view(self):
        seed = int(os.environ.get("LOCI_LINEARIZABILITY_SEED", str(random.SystemRandom().randrange(1 << 30))))
        print(f"LOCI_LINEARIZABILITY_SEED={seed}", flush=True)
        with tempfile.TemporaryDirectory() as directory:
            subprocess.run([os.environ["LOCI_WRITE_TINY_CHECKPOINT"], directory], check=True)
            os.environ["LOCI_MODEL_DIR"] = directory
            server = ServerProcess()
        recorder = Recorder(server.address)
        recorder.prepare()
        threads = [threading.Thread(target=recorder.run, args=(f"{seed} search {i}", [recorder.search, recorder.search, recorder.get]))
                   for i in range(SEARCHERS)]
        threads += [threading.Thread(target=recorder.run, args=(f"{seed} write {i}", [recorder.write])) for i in range(WRITERS)]
        threads.append(threading.Thread(target=recorder.run_seldom, args=(f"{seed} fold", recorder.fold, 40)))
        threads.append(threading.Thread(target=recorder.run_seldom, args=(f"{seed} swap", recorder.swap, 60)))
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        recorder.finish()
        seconds = time.monotonic() - began
        self.assertEqual(recorder.failures[:3], [])
        history = [operation for operation in recorder.history if operation.kind != "nothing"]
        kinds = collections.Counter(operation.kind for operation in history)
        began = time.monotonic()
        errors = Checker(recorder.bodies, recorder.active, recorder.revision, recorder.scores).check(history)
        checked = time.monotonic() - began
        print(f"{len(recorder.history)} operations in {seconds:.1f} s ({dict(kinds)}; without effect: {dict(recorder.counts)}), "
              f"checked in {checked:.1f} s: {len(errors)} errors", flush=True)
        if errors:
            updates = [operation for operation in history if operation.kind in ("activate", "rollback", "fold")]
            print("\n".join(str(operation) for operation in sorted(updates, key=lambda operation: operation.revision)), flush=True)
        self.assertEqual(errors[:5], [], "\n".join(errors))
        for kind in ("search", "get", "upsert", "delete", "activate", "rollback", "fold"):
            self.assertGreater(kinds[kind], 0, f"no {kind} had an effect")
        recorder.client.close()
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    main()
