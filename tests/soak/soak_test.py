"""Everything at once for a while: nothing fails that should not, and neither memory nor descriptors grow.

Searches, questions, writes that are read back at once, whole corpora as new generations, activations, roll-backs, verifications,
deletions of stores, connections that come and go, calls that are cancelled, and requests that are refused.

LOCI_SOAK_SECONDS (default 60) of it, LOCI_SOAK_SEED. The twenty minutes:
  LOCI_SOAK_SECONDS=1200 bazel test //tests/soak:soak_test --test_env=LOCI_SOAK_SECONDS --test_timeout=1800 --test_output=all
"""

import collections
import os
import random
import re
import statistics
import threading
import time
import unittest
import urllib.request

import grpc

from loci_server import ReflectionClient, ServerProcess, error_info, main

SECONDS = float(os.environ.get("LOCI_SOAK_SECONDS", "60"))
SEED = int(os.environ.get("LOCI_SOAK_SEED", "20261121"))
CORPUS_SIZE = 150
WRITTEN_IDS = 60
# Two looks of the same load differ by what is in flight and by what the allocator keeps.
GROWTH_LIMIT = 1.10
GROWTH_SLACK_KIB = 16 << 10
DESCRIPTOR_SLACK = 24

# Refusals that operators who work at the same time run into.
EXPECTED = {"switch": {"JOB_IN_THE_WAY", "NO_PREVIOUS_GENERATION", "GENERATION_NOT_FOUND"}, "build": {"JOB_IN_THE_WAY"}, "fold": {"JOB_IN_THE_WAY"}}


class Soak:
    """What the workers share. Thread-safe."""

    def __init__(self, server, client):
        self.server = server
        self.client = client
        self.stop_at = time.monotonic() + SECONDS
        self.counts = collections.Counter()
        self.refusals = collections.Counter()
        self.failures = []
        self.lock = threading.Lock()

    def running(self):
        return time.monotonic() < self.stop_at and not self.failures

    def run(self, name, number, step):
        """Repeats `step` with a connection of its own."""
        rng = random.Random(f"{SEED} {name} {number}")
        client = ReflectionClient(self.server.address, like=self.client)
        while self.running():
            try:
                if rng.random() < 0.02:  # Connections come and go.
                    client.close()
                    client = ReflectionClient(self.server.address, like=self.client)
                step(client, rng, number)
                with self.lock:
                    self.counts[name] += 1
            except grpc.RpcError as error:
                try:
                    reason = error_info(error).reason
                except AssertionError as no_details:
                    reason = str(no_details)
                if reason in EXPECTED.get(name, ()):
                    with self.lock:
                        self.refusals[f"{name}: {reason}"] += 1
                    time.sleep(0.02)
                else:
                    self.failures.append(f"{name}: {error.code()} {error.details()} ({reason})")
            except Exception as error:  # pylint: disable=broad-except
                self.failures.append(f"{name}: {error!r}")
        client.close()


def corpus(client, name):
    return [client.message("Passage", id=f"p{i}", title=name, text=f"{name} has a passage about topic {i} and its neighbours")
            for i in range(CORPUS_SIZE)]


def search(client, rng, _):
    reply = client.call("RetrievalService.Search", store="corpus", top_k=10, include_text=True,
                        queries=[client.message("Query", text=f"a passage about topic {rng.randrange(CORPUS_SIZE)}")])
    titles = {hit.passage.title for hit in reply.results[0].hits}
    assert len(titles) == 1 and len(reply.results[0].hits) == 10, f"a reply of {titles}"


def ask(client, rng, _):
    client.call("RetrievalService.Answer", store="corpus", question=f"which passage is about topic {rng.randrange(CORPUS_SIZE)}?", top_k=5)


def write(client, rng, number):
    """What was acknowledged is there at the next read."""
    passage_id = f"{number}-{rng.randrange(WRITTEN_IDS)}"
    text = f"version {rng.random()}"
    client.call("AdminService.UpsertPassages", store="writes", passages=[client.message("Passage", id=passage_id, text=text)])
    got = client.call("AdminService.GetPassages", store="writes", ids=[passage_id]).passages[0].text
    assert got == text, f"{passage_id} is {got!r}, acknowledged was {text!r}"
    if rng.random() < 0.3:
        assert client.call("AdminService.DeletePassages", store="writes", ids=[passage_id]).deleted_count == 1


def fold(client, _, __):
    """Builds the written store anew, so that its overlay does not grow for ever."""
    passages = [client.message("Passage", id=f"base-{i}", text=f"a base passage {i}") for i in range(20)]
    client.ingest({"store": "writes", "writes_since": client.value("WritesSince", "WRITES_SINCE_REPLAY")}, [{"passages": passages}])
    time.sleep(1)


def build(client, rng, _):
    client.ingest({"store": "corpus"}, [{"passages": corpus(client, f"corpus {rng.randrange(1000)}")}])
    time.sleep(0.5)


def switch(client, rng, _):
    generations = client.call("AdminService.ListGenerations", store="corpus").generations
    client.call("AdminService.ActivateGeneration", store="corpus", generation=rng.choice(generations).generation)
    if rng.random() < 0.3:
        client.call("AdminService.RollbackStore", store="corpus")
    if rng.random() < 0.3:
        client.call("AdminService.VerifyGeneration", store="corpus")
    time.sleep(0.2)


def come_and_go(client, _, number):
    name = f"short-{number}"
    client.ingest({"store": name}, [{"passages": corpus(client, name)[:10]}])
    client.call("AdminService.DeleteStore", store=name, confirm_name=name)
    time.sleep(0.2)


def cancel(client, rng, _):
    stub = client.channel.unary_unary("/loci.v1.RetrievalService/Search", lambda message: message.SerializeToString(),
                                      type(client.message("SearchResponse")).FromString)
    request = client.message("SearchRequest", store="corpus", top_k=10, queries=[client.message("Query", text="cancelled " * 100)] * 20)
    call = stub.future(request, timeout=60)
    time.sleep(rng.random() * 0.02)
    call.cancel()
    time.sleep(0.05)


def refused(client, _, __):
    for fields in ({"top_k": 0}, {"top_k": 10}, {"top_k": 10, "queries": [client.message("Query", text="q")], "store": "no-such-store"}):
        try:
            client.call("RetrievalService.Search", **fields)
            raise AssertionError(f"{fields} was taken")
        except grpc.RpcError as error:
            assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND), error
    time.sleep(0.05)


# Kind of work: how many at once, and what each does again and again.
WORK = {"search": (4, search), "ask": (1, ask), "write": (2, write), "fold": (1, fold), "build": (1, build), "switch": (1, switch),
        "come and go": (1, come_and_go), "cancel": (1, cancel), "refused": (1, refused)}


class SoakTest(unittest.TestCase):
    def sample(self, server):
        with open(f"/proc/{server.process.pid}/status", encoding="ascii") as file:
            resident = int(re.search(r"VmRSS:\s+(\d+)", file.read())[1])
        return resident, len(os.listdir(f"/proc/{server.process.pid}/fd"))

    def test_nothing_fails_and_nothing_grows(self):
        server = ServerProcess()
        client = ReflectionClient(server.address)
        client.call("AdminService.CreateStore", store="corpus", keep_generations=3)
        client.call("AdminService.CreateStore", store="writes", keep_generations=2)
        for name in ("corpus 1", "corpus 2"):
            client.ingest({"store": "corpus"}, [{"passages": corpus(client, name)}])
        client.call("AdminService.UpsertPassages", store="writes", passages=[client.message("Passage", id="first", text="first")])

        soak = Soak(server, client)
        threads = [threading.Thread(target=soak.run, args=(name, number, step)) for name, (count, step) in WORK.items()
                   for number in range(count)]
        for thread in threads:
            thread.start()
        samples = []
        while soak.running():
            time.sleep(0.5)
            samples.append(self.sample(server))
            with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=30) as reply:
                self.assertIn(b"loci_requests_total", reply.read())
        for thread in threads:
            thread.join()
        self.assertEqual(soak.failures[:5], [], server.log()[-2000:])

        quarter = len(samples) // 4
        early, late = samples[quarter:2 * quarter], samples[-quarter:]
        early_kib, late_kib = (statistics.median(kib for kib, _ in part) for part in (early, late))
        early_descriptors, late_descriptors = (max(count for _, count in part) for part in (early, late))
        print(f"{SECONDS:.0f} s: " + ", ".join(f"{soak.counts[name]} {name}" for name in WORK))
        print(f"refused, as they should be: {dict(soak.refusals)}")
        print(f"resident memory, median of the second quarter {early_kib:.0f} KiB, of the last {late_kib:.0f} KiB "
              f"({100 * (late_kib / early_kib - 1):+.1f} %); open files at most {early_descriptors}, {late_descriptors}", flush=True)
        for name in WORK:
            self.assertGreater(soak.counts[name], 0, f"no {name} succeeded")
        self.assertLess(late_kib, GROWTH_LIMIT * early_kib + GROWTH_SLACK_KIB)
        self.assertLess(late_descriptors, early_descriptors + DESCRIPTOR_SLACK)
        client.close()
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    main()
