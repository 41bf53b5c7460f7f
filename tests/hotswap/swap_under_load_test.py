"""Activates generations while many searches are in flight: none fails, none mixes two generations, and no memory is left behind.

Two generations of one store hold the same ids with texts that name their generation; every hit of a reply must be of the generation
that the reply names. LOCI_SWAP_COUNT (default 20) activations under LOCI_SWAP_IN_FLIGHT (default 64) searches over
LOCI_SWAP_CONNECTIONS (default 8) connections. The server is $LOCI_SERVER_BINARY.
"""

import os
import re
import threading
import time
import unittest

import grpc

from loci_server import ReflectionClient, ServerProcess, main

SWAPS = int(os.environ.get("LOCI_SWAP_COUNT", "20"))
IN_FLIGHT = int(os.environ.get("LOCI_SWAP_IN_FLIGHT", "64"))
CONNECTIONS = int(os.environ.get("LOCI_SWAP_CONNECTIONS", "8"))
PASSAGES = 200
TOP_K = 20


def resident_kib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1])


class SearchLoad:
    """Keeps IN_FLIGHT searches in flight from start() to stop(), which waits for the last of them."""

    def __init__(self, client, address, check):
        self._channels = [grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)])
                          for _ in range(CONNECTIONS)]
        response = type(client.message("SearchResponse"))
        self._searches = [channel.unary_unary("/loci.v1.RetrievalService/Search", lambda message: message.SerializeToString(),
                                              response.FromString) for channel in self._channels]
        self._requests = [client.message("SearchRequest", store="s", top_k=TOP_K, include_text=True,
                                         queries=[client.message("Query", text=f"a passage about topic {i}")]) for i in range(PASSAGES)]
        self._check = check
        self._lock = threading.Condition()
        self._running = False
        self._open = 0
        self.count = 0
        self.failures = []

    def start(self):
        self._running = True
        for number in range(IN_FLIGHT):
            with self._lock:
                self._open += 1
            self._send(number)

    def stop(self):
        with self._lock:
            self._running = False
            self._lock.wait_for(lambda: self._open == 0, timeout=120)
            if self._open:
                self.failures.append(f"{self._open} searches were not answered")

    def wait_for(self, count):
        with self._lock:
            self._lock.wait_for(lambda: self.count >= count or self.failures, timeout=120)

    def close(self):
        for channel in self._channels:
            channel.close()

    def _send(self, number):
        call = self._searches[number % CONNECTIONS].future(self._requests[number % PASSAGES], timeout=60)
        call.add_done_callback(lambda done: self._receive(number, done))

    def _receive(self, number, call):
        failure = call.details() or str(call.code()) if call.code() is not grpc.StatusCode.OK else self._check(call.result())
        with self._lock:
            if failure:
                self.failures.append(failure)
            self.count += 1
            again = self._running and not failure
            self._open -= not again
            self._lock.notify_all()
        if again:
            self._send(number)


class SwapUnderLoadTest(unittest.TestCase):
    def test_no_search_fails_and_none_mixes_two_generations(self):
        server = ServerProcess()
        client = ReflectionClient(server.address)
        generations = {}
        for name in ("red", "blue"):
            passages = [client.message("Passage", id=f"p{i}", text=f"{name} passage about topic {i}") for i in range(PASSAGES)]
            generations[client.ingest({"store": "s"}, [{"passages": passages}]).generation] = name
        order = list(generations)
        seen = set()

        def check(reply):
            texts = {hit.passage.text.split()[0] for hit in reply.results[0].hits}
            seen.add(reply.generation)
            wrong = texts != {generations[reply.generation]} or len(reply.results[0].hits) != TOP_K
            return f"{reply.generation} answered with {texts}" if wrong else ""

        load = SearchLoad(client, server.address, check)
        load.start()
        load.wait_for(3 * IN_FLIGHT)
        load.stop()
        self.assertEqual(load.failures[:3], [])
        time.sleep(1)
        before_kib = resident_kib(server.process.pid) if server.process else 0

        seen.clear()
        first = load.count
        load.start()
        revisions = []
        for swap in range(SWAPS):
            reply = client.call("AdminService.ActivateGeneration", store="s", generation=order[swap % 2])
            revisions.append(reply.revision)
            load.wait_for(load.count + IN_FLIGHT)  # Searches go on under each generation.
        load.stop()
        self.assertEqual(load.failures[:3], [])
        self.assertEqual(revisions, sorted(set(revisions)), "each activation has a revision of its own")
        self.assertEqual(seen, set(order), "both generations answered")
        time.sleep(1)
        after_kib = resident_kib(server.process.pid) if server.process else 0
        print(f"{SWAPS} activations, {load.count - first} searches, {IN_FLIGHT} in flight over {CONNECTIONS} connections: none failed, none "
              f"mixed; resident {before_kib} KiB before, {after_kib} KiB after", flush=True)
        self.assertLessEqual(after_kib, 1.05 * before_kib, "no memory is left behind")
        load.close()
        client.close()
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    main()
