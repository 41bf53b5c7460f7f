"""SIGTERM under load: every request that was admitted is answered and its answer arrives, the server exits with 0, and the next one serves
the same view with every write that was acknowledged.

The access log says what the server answered, request id by request id; the clients say what they got. The server is $LOCI_SERVER_BINARY.
"""

import re
import signal
import tempfile
import threading
import time
import unittest

import grpc

from loci_server import ReflectionClient, ServerProcess, error_info, main

CLIENTS = 32
ROUNDS = 3


class DrainTest(unittest.TestCase):
    def test_what_was_admitted_is_answered_and_the_view_stays(self):
        with tempfile.TemporaryDirectory(prefix="loci_drain_") as data_dir:
            written, view = {}, None
            for number in range(ROUNDS):
                server = ServerProcess(data_dir=data_dir, flags=["--log-requests"])
                client = ReflectionClient(server.address)
                if view is None:
                    client.ingest({"store": "s"}, [{"passages": [client.message("Passage", id=f"p{i}", text=f"passage {i}") for i in range(50)]}])
                else:
                    reply = self.search(client)
                    self.assertEqual((reply.generation, reply.revision), view, "the same view")
                    ids = sorted(written)
                    found = client.call("AdminService.GetPassages", store="s", ids=ids).passages
                    self.assertEqual([passage.text for passage in found], [written[name] for name in ids], "every write that was acknowledged")
                view = self.stop_under_load(server, client, number, written)

    @staticmethod
    def search(client):
        return client.call("RetrievalService.Search", store="s", top_k=5, queries=[client.message("Query", text="passage 7")])

    def stop_under_load(self, server, client, number, written):
        """Returns the newest view that a reply named."""
        search = client.channel.unary_unary("/loci.v1.RetrievalService/Search", lambda message: message.SerializeToString(),
                                            type(client.message("SearchResponse")).FromString)
        upsert = client.channel.unary_unary("/loci.v1.AdminService/UpsertPassages", lambda message: message.SerializeToString(),
                                            type(client.message("UpsertPassagesResponse")).FromString)
        question = client.message("SearchRequest", store="s", top_k=5, queries=[client.message("Query", text="passage 7")])
        lock = threading.Lock()
        answered, wrong, views = set(), [], []
        stopping = threading.Event()

        def run(worker):
            count = 0
            while True:
                name = f"r{number}-{worker}-{count}"
                count += 1
                try:
                    if worker == 0:
                        passage = client.message("Passage", id=name, text=f"written as {name}")
                        reply = upsert(client.message("UpsertPassagesRequest", store="s", passages=[passage]), timeout=60, metadata=[("x-request-id", name)])
                        written[name] = passage.text
                    else:
                        reply = search(question, timeout=60, metadata=[("x-request-id", name)])
                    with lock:
                        answered.add(name)
                        views.append((reply.revision, reply.generation))
                except grpc.RpcError as error:
                    # Refused as draining, or not taken at all: the connection is closed, or gRPC, which was shutting down, ended it as CANCELLED
                    # before the server heard of it.
                    if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED) or not stopping.is_set():
                        wrong.append(f"{name}: {error.code()} {error.details()}")
                    elif dict(error.trailing_metadata() or ()).get("grpc-status-details-bin") and error_info(error).reason != "DRAINING":
                        wrong.append(f"{name}: {error.details()}")
                    return

        threads = [threading.Thread(target=run, args=(worker,)) for worker in range(CLIENTS)]
        for thread in threads:
            thread.start()
        enough = time.monotonic() + 0.7
        while time.monotonic() < enough or len(answered) < 2 * CLIENTS:
            time.sleep(0.01)
        stopping.set()
        server.process.send_signal(signal.SIGTERM)
        status = server.process.wait(timeout=60)
        for thread in threads:
            thread.join()
        log = server.log()
        self.assertEqual(status, 0, log)
        self.assertEqual(wrong, [])
        server_answered = set(re.findall(r"answered method=\w+ code=OK .*request_id=(r\d+-\d+-\d+) ", log))
        server_failed = set(re.findall(r"failed method=\w+ code=(\w+)", log))
        self.assertEqual(server_answered - answered, set(), "answered, but the answer did not arrive")
        self.assertEqual(answered - server_answered, set())
        self.assertLessEqual(server_failed, {"UNAVAILABLE"})
        self.assertNotIn("drain time is over", log)
        print(f"{len(answered)} requests of {CLIENTS} clients answered, then SIGTERM: none lost, {len(written)} writes kept", flush=True)
        server.stop()
        client.close()
        revision, generation = max(views)
        return generation, revision


if __name__ == "__main__":
    main()
