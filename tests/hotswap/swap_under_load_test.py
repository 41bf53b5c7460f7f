"""Activates generations while many clients search: no search fails, and no reply mixes two generations.

Two generations of one store hold the same ids with texts that name their generation; every hit of a reply must be of the generation
that the reply names. LOCI_SWAP_COUNT (default 20) activations under LOCI_SWAP_CLIENTS (default 64) concurrent searches.
The server is $LOCI_SERVER_BINARY.
"""

import os
import threading
import time
import unittest

from loci_server import ReflectionClient, ServerProcess, main

SWAPS = int(os.environ.get("LOCI_SWAP_COUNT", "20"))
CLIENTS = int(os.environ.get("LOCI_SWAP_CLIENTS", "64"))
PASSAGES = 200


class SwapUnderLoadTest(unittest.TestCase):
    def test_no_search_fails_and_none_mixes_two_generations(self):
        server = ServerProcess()
        client = ReflectionClient(server.address)
        generations = {}
        for name in ("red", "blue"):
            passages = [client.message("Passage", id=f"p{i}", text=f"{name} passage about topic {i}") for i in range(PASSAGES)]
            generations[client.ingest({"store": "s"}, [{"passages": passages}]).generation] = name
        order = list(generations)

        search = client.channel.unary_unary("/loci.v1.RetrievalService/Search", lambda message: message.SerializeToString(),
                                            type(client.message("SearchResponse")).FromString)
        requests = [client.message("SearchRequest", store="s", top_k=20, include_text=True,
                                   queries=[client.message("Query", text=f"a passage about topic {i}")]) for i in range(CLIENTS)]
        stop = threading.Event()
        failures, counts, seen = [], [0] * CLIENTS, [set() for _ in range(CLIENTS)]

        def run(number):
            while not stop.is_set():
                try:
                    reply = search(requests[number], timeout=60)
                    texts = {hit.passage.text.split()[0] for hit in reply.results[0].hits}
                    if texts != {generations[reply.generation]} or len(reply.results[0].hits) != 20:
                        failures.append(f"{reply.generation} answered with {texts}")
                    seen[number].add(reply.generation)
                    counts[number] += 1
                except Exception as error:  # pylint: disable=broad-except
                    failures.append(repr(error))
                    return

        threads = [threading.Thread(target=run, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        revisions = []
        for swap in range(SWAPS):
            reply = client.call("AdminService.ActivateGeneration", store="s", generation=order[swap % 2])
            revisions.append(reply.revision)
            enough = sum(counts) + CLIENTS  # Searches go on under each generation.
            while sum(counts) < enough and not failures:
                time.sleep(0.001)
        stop.set()
        for thread in threads:
            thread.join()
        self.assertEqual(failures[:3], [])
        self.assertEqual(revisions, sorted(set(revisions)), "each activation has a revision of its own")
        self.assertEqual(set().union(*seen), set(order), "both generations answered")
        print(f"{SWAPS} activations, {sum(counts)} searches by {CLIENTS} clients: none failed, none mixed", flush=True)
        client.close()
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    main()
