"""Training clients and query clients at once, with writes and swaps: no error, no session sees its view change, leases of dead clients are freed.

A training client opens a session, retrieves and differentiates in a loop, asks one probe again and again and compares the replies byte by byte, and
then closes the session or, one time in four, goes away without a word. Meanwhile passages are written and deleted, and two generations are activated
in turn. At the end nothing may be leased, nothing may drain.

  LOCI_SERVER_BINARY=bazel-bin/server/loci_server PYTHONPATH=tests/integration python3 tests/load/training_clients.py --seconds 600
"""

from __future__ import annotations

import argparse
import collections
import random
import struct
import sys
import threading
import time
import urllib.request
from typing import Any, Callable

from loci_server import ReflectionClient, ServerProcess
from synthetic_corpus import DIM, WORDS, make_vectors, vector_batches

STORE = "training"
LEASE_MS = 30_000
DYING_LEASE_MS = 1_000
ESTIMATORS = ("TOP_K", "EXACT_Z", "EXACT_Z_NULL", "EXACT_Z_TAIL")


class TrainingLoad:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.server = ServerProcess()
        self.client = ReflectionClient(self.server.address)
        self.fingerprint = self.client.call("AdminService.GetServerInfo").encoders[0].fingerprint
        self.generations = []
        for label in ("red", "blue"):
            header = {"store": STORE, "encoder_fingerprint": self.fingerprint}
            self.generations.append(self.client.ingest(header, vector_batches(self.client, options.passages, label, words=20), timeout=3600).generation)
        self.ended = threading.Event()
        self.lock = threading.Lock()
        self.counts: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []

    def count(self, what: str) -> None:
        with self.lock:
            self.counts[what] += 1

    def run(self) -> None:
        workers: list[tuple[Callable[..., None], int]] = [(self.train, i) for i in range(self.options.training_clients)]
        workers += [(self.query, i) for i in range(self.options.query_clients)] + [(self.write, 0), (self.swap, 0)]
        threads = [threading.Thread(target=self.guard, args=worker) for worker in workers]
        for thread in threads:
            thread.start()
        self.ended.wait(self.options.seconds)
        # What a short run is for has happened at least once.
        while not self.failures and (self.counts["steps"] < 1 or self.counts["deaths"] < 1 or self.counts["swaps"] < 2 or self.counts["writes"] < 1 or
                                     self.counts["searches"] < 1):
            time.sleep(0.05)
        self.ended.set()
        for thread in threads:
            thread.join()
        self.await_freed()

    def guard(self, body: Callable[[ReflectionClient, random.Random], None], number: int) -> None:
        client = ReflectionClient(self.server.address, like=self.client)
        try:
            body(client, random.Random(f"{body.__name__}{number}"))
        except Exception as error:  # pylint: disable=broad-except
            with self.lock:
                self.failures.append(f"{body.__name__} {number}: {error}")
            self.ended.set()
        finally:
            client.close()

    def matrix(self, rng: random.Random, rows: int) -> dict[str, Any]:
        data = b""
        for _ in range(rows):
            vector = struct.unpack(f"<{DIM}f", rng.choice(make_vectors()))
            data += struct.pack(f"<{DIM}f", *(value + rng.gauss(0, 0.02) for value in vector))
        return {"rows": rows, "cols": DIM, "type": self.client.value("VectorType", "VECTOR_TYPE_FLOAT32"), "data": data}

    def train(self, client: ReflectionClient, rng: random.Random) -> None:
        while not self.ended.is_set():
            session = client.call("TrainingService.OpenSession", store=STORE, lease_ms=LEASE_MS)
            probe = {"session_id": session.session_id, "top_k": 8, "query_vectors": self.matrix(rng, 2), "include_mean_vectors": True,
                     "estimator": self.client.value("Estimator", "ESTIMATOR_EXACT_Z_TAIL"), "tail_samples": 4, "seed": rng.getrandbits(63), "temperature": 0.05}
            first = client.call("TrainingService.Retrieve", **probe)
            for _ in range(rng.randint(1, self.options.steps)):
                if self.ended.is_set():
                    break
                self.step(client, rng, session)
                again = client.call("TrainingService.Retrieve", **probe)
                if (again.generation, again.revision) != (session.generation, session.revision) or again.results != first.results or \
                        again.mean_vectors != first.mean_vectors:
                    raise AssertionError(f"session {session.session_id} saw its view change: {again.generation} {again.revision}")
            if rng.random() < 0.25:
                client.call("TrainingService.RenewSession", session_id=session.session_id, lease_ms=DYING_LEASE_MS)
                self.count("deaths")
            else:
                client.call("TrainingService.CloseSession", session_id=session.session_id)
                self.count("sessions")

    def step(self, client: ReflectionClient, rng: random.Random, session: Any) -> None:
        estimator = rng.choice(ESTIMATORS)
        draws = 4 if estimator == "EXACT_Z_TAIL" else 0
        queries = {"query_texts": [" ".join(rng.choices(WORDS, k=8))]} if rng.random() < 0.1 else {"query_vectors": self.matrix(rng, self.options.batch)}
        reply = client.call("TrainingService.Retrieve", session_id=session.session_id, top_k=8, tail_samples=draws, seed=rng.getrandbits(63), temperature=0.05,
                            estimator=self.client.value("Estimator", "ESTIMATOR_" + estimator), include_text=rng.random() < 0.2, **queries)
        if (reply.generation, reply.revision) != (session.generation, session.revision):
            raise AssertionError(f"a session of {session.generation} {session.revision} retrieved from {reply.generation} {reply.revision}")
        if any(len(result.hits) != 8 or len({hit.id for hit in result.hits}) != 8 for result in reply.results):
            raise AssertionError("a head without its 8 passages")
        rows, cols = len(reply.results), 8 + draws + (estimator == "EXACT_Z_NULL")
        likelihoods = {"rows": rows, "cols": cols, "type": self.client.value("VectorType", "VECTOR_TYPE_FLOAT64"),
                       "data": struct.pack(f"<{rows * cols}d", *(rng.uniform(-8, 0) for _ in range(rows * cols)))}
        back = client.call("TrainingService.Backward", session_id=session.session_id, handle=reply.handle, log_likelihoods=likelihoods, max_log_likelihood=0)
        if (back.query_gradients.rows, back.query_gradients.cols) != (rows, DIM) or not all(bound >= 0 for bound in back.certificates):
            raise AssertionError("no gradient, or one without its certificate")
        self.count("steps")

    def query(self, client: ReflectionClient, rng: random.Random) -> None:
        while not self.ended.is_set():
            query = {"text": " ".join(rng.choices(WORDS, k=8))} if rng.random() < 0.1 else {"vector": self.matrix(rng, 1)}
            reply = client.call("RetrievalService.Search", store=STORE, top_k=10, queries=[query])
            if len(reply.results[0].hits) != 10:
                raise AssertionError("a search without its 10 hits")
            self.count("searches")

    def write(self, client: ReflectionClient, rng: random.Random) -> None:
        written: collections.deque[str] = collections.deque()
        while not self.ended.wait(0.05):
            name = f"w{rng.getrandbits(32):08x}"
            client.call("AdminService.UpsertPassages", store=STORE, passages=[{"id": name, "text": " ".join(rng.choices(WORDS, k=12))}])
            written.append(name)
            if len(written) > 50:
                client.call("AdminService.DeletePassages", store=STORE, ids=[written.popleft()])
            self.count("writes")

    def swap(self, client: ReflectionClient, _: random.Random) -> None:
        replay = self.client.value("WritesSince", "WRITES_SINCE_REPLAY")
        for number in range(10**9):
            if self.ended.wait(self.options.swap_s):
                return
            client.call("AdminService.ActivateGeneration", store=STORE, generation=self.generations[number % 2], writes_since=replay)
            self.count("swaps")

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://{self.server.metrics_address}/metrics", timeout=10) as reply:
            return reply.read().decode()

    def await_freed(self) -> None:
        """Until the leases of clients that died are over, and what only they held is gone."""
        deadline = time.monotonic() + 60
        while not self.failures:
            text = self.metrics()
            if "\nloci_training_sessions 0\n" in text and "\nloci_generations_draining 0\n" in text and "\nloci_training_handle_bytes 0\n" in text:
                return
            if time.monotonic() > deadline:
                self.failures.append("leases were not freed")
            time.sleep(0.1)

    def close(self) -> None:
        self.client.close()
        if self.server.stop() != 0:
            self.failures.append("the server did not end well")


def run(options: argparse.Namespace) -> list[str]:
    """What went wrong."""
    load = TrainingLoad(options)
    start = time.monotonic()
    load.run()
    print(f"{options.training_clients} training and {options.query_clients} query clients, {options.passages} passages, {time.monotonic() - start:.0f} s: " +
          ", ".join(f"{load.counts[what]} {what}" for what in ("steps", "sessions", "deaths", "searches", "writes", "swaps")) +
          f", {len(load.failures)} failures", flush=True)
    load.close()
    return load.failures


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--seconds", type=float, default=600)
    result.add_argument("--training-clients", type=int, default=64)
    result.add_argument("--query-clients", type=int, default=64)
    result.add_argument("--passages", type=int, default=10_000, help="of each of the two generations")
    result.add_argument("--batch", type=int, default=8, help="queries of a training step")
    result.add_argument("--steps", type=int, default=40, help="of a session, at most")
    result.add_argument("--swap-s", type=float, default=2.0, help="between two activations")
    return result


if __name__ == "__main__":
    sys.exit("\n".join(run(parser().parse_args())[:10]) or 0)
