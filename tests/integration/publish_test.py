"""What a training job publishes, by a client that knows the service from reflection alone.

The server is the binary in $LOCI_SERVER_BINARY (encoder: $LOCI_MODEL_DIR). The model's weights come changed in one tensor; the same checkpoint, imported as an
encoder of its own, says what texts should become.
"""

from __future__ import annotations

import array
import hashlib
import json
import os
import struct
import tempfile
import threading
import time
import unittest
from operator import mul
from typing import Any, Iterable

import grpc
from loci_server import ReflectionClient, ServerProcess, delete_stores_and_stop, error_info, main, perturbed_checkpoint

WORDS = ("river city moon music tree bird house garden winter bread engine letter ocean glass mountain silver market doctor paper storm "
         "school bridge candle forest harbour island journey kitchen ladder mirror needle orchard pencil quarry railway saddle temple").split()
PASSAGES = [{"id": f"p{i:02d}", "text": f"the {WORDS[i % len(WORDS)]} and the {WORDS[(7 * i + 3) % len(WORDS)]} near the {WORDS[(5 * i + 11) % len(WORDS)]}"} for i in range(60)]
QUERIES = ["where is the river", "a doctor in the winter", "bread and music", "the island in a storm"]
K = 5


def floats(matrix: Any) -> list[list[float]]:
    values = array.array("f", matrix.data)
    return [list(values[row * matrix.cols:(row + 1) * matrix.cols]) for row in range(matrix.rows)]


def dot(a: list[float], b: list[float]) -> float:
    return sum(map(mul, a, b))


class PublishTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = tempfile.TemporaryDirectory(prefix="loci_publish_")
        cls.addClassCleanup(cls.folder.cleanup)
        model = os.environ.get("LOCI_MODEL_DIR", "models/all-MiniLM-L6-v2")
        perturbed_checkpoint(model, os.path.join(cls.folder.name, "perturbed"))
        with open(os.path.join(cls.folder.name, "perturbed", "model.safetensors"), "rb") as file:
            cls.weights = file.read()
        cls.start()
        cls.stores: list[str] = []
        cls.parent = cls.client.call("AdminService.GetServerInfo").encoders[0].fingerprint
        cls.alone = cls.client.import_encoder("perturbed", os.path.join(cls.folder.name, "perturbed")).encoder.fingerprint

    @classmethod
    def start(cls) -> None:
        cls.server = ServerProcess(data_dir=os.path.join(cls.folder.name, "data"))
        cls.client = ReflectionClient(cls.server.address)

    @classmethod
    def restart(cls) -> None:
        cls.client.close()
        status = cls.server.stop()
        assert status == 0, status
        cls.start()

    @classmethod
    def tearDownClass(cls) -> None:
        delete_stores_and_stop(cls.client, cls.server, cls.stores)

    def fill(self, store: str) -> Any:
        self.stores.append(store)
        return self.client.ingest({"store": store}, [{"passages": [self.client.message("Passage", **passage) for passage in PASSAGES]}])

    def halves(self, name: str) -> int:
        return self.client.value("EncoderHalves", "ENCODER_HALVES_" + name)

    def publish(self, messages: Iterable[dict[str, Any]], timeout: float = 120) -> Any:
        """Each message's fields, `header` as those of the header."""
        response = self.client.message_class("PublishResponse")

        def requests():
            for fields in messages:
                fields = dict(fields)
                if "header" in fields:
                    fields["header"] = self.client.message("PublishHeader", **fields["header"])
                yield self.client.message("PublishRequest", **fields)

        stub = self.client.channel.stream_unary("/loci.v1.TrainingService/PublishEncoder", lambda message: message.SerializeToString(), response.FromString)
        return stub(requests(), timeout=timeout)

    def header(self, weights: bytes | None = None, halves: str = "QUERY", **fields: Any) -> dict[str, Any]:
        weights = self.weights if weights is None else weights
        return {"halves": self.halves(halves), "size_bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest(), "job_name": "a test",
                "metrics": {"loss": 0.5}, **fields}

    @staticmethod
    def pieces(weights: bytes, size: int = 1 << 20) -> Iterable[dict[str, Any]]:
        return ({"weights": weights[at:at + size]} for at in range(0, len(weights), size))

    def send(self, weights: bytes | None = None, halves: str = "QUERY", **fields: Any) -> Any:
        weights = self.weights if weights is None else weights
        return self.publish([{"header": self.header(weights, halves, **fields)}, *self.pieces(weights)])

    def encode(self, texts: list[str], role: str, encoder: str) -> list[list[float]]:
        return floats(self.client.call("RetrievalService.Encode", texts=texts, encoder=encoder, role=self.client.value("TextRole", "TEXT_ROLE_" + role)).vectors)

    def search(self, store: str, **fields: Any) -> Any:
        options = self.client.message("SearchOptions", exact=True)
        return self.client.call("RetrievalService.Search", store=store, queries=[self.client.message("Query", text=text) for text in QUERIES], top_k=K,
                                options=options, **fields)

    def vectors(self, store: str) -> dict[str, list[float]]:
        reply = self.client.call("AdminService.GetPassages", store=store, ids=[passage["id"] for passage in PASSAGES], include_vectors=True)
        return dict(zip([passage.id for passage in reply.passages], floats(reply.vectors)))

    def check_results(self, reply: Any, vectors: dict[str, list[float]], queries: list[list[float]]) -> None:
        for result, query in zip(reply.results, queries, strict=True):
            scores = {name: dot(vector, query) for name, vector in vectors.items()}
            wanted = sorted(scores, key=lambda name: (-scores[name], name))[:K]
            for hit, name in zip(result.hits, wanted, strict=True):
                self.assertAlmostEqual(hit.score, scores[name], delta=2e-6)
                self.assertAlmostEqual(hit.score, scores[hit.id], delta=2e-6)

    def fails(self, code: grpc.StatusCode, messages: Iterable[dict[str, Any]], field: str | None = None, reason: str | None = None) -> str:
        before = self.folders()
        with self.assertRaises(grpc.RpcError) as raised:
            self.publish(messages)
        error = raised.exception
        self.assertEqual(error.code(), code, error.details())
        info = error_info(error)
        if field is not None:
            self.assertEqual(info.metadata["field"], field, error.details())
        if reason is not None:
            self.assertEqual(info.reason, reason, error.details())
        self.assertEqual(self.folders(), before, "it leaves nothing")
        return error.details()

    def folders(self) -> list[str]:
        return sorted(os.listdir(os.path.join(self.folder.name, "data", "encoders")))

    def await_job(self, job: str) -> Any:
        deadline = time.monotonic() + 120
        while True:
            info = self.client.call("AdminService.GetJob", job=job)
            if info.finished_unix_us:
                return info
            self.assertLess(time.monotonic(), deadline, info)
            time.sleep(0.05)

    def test_a_query_half_is_live_at_once_and_over_restarts(self) -> None:
        self.fill("live")
        self.fill("beside")
        before = self.search("live")
        self.assertEqual(before.encoder_fingerprint, self.parent)
        session = self.client.call("TrainingService.OpenSession", store="live")
        reply = self.send(store="live", parent_fingerprint=session.encoder_fingerprint)
        query, passage = reply.fingerprint.split(":")
        self.assertEqual((passage, reply.job, reply.live, reply.was_there), (self.parent.split(":")[1], "", True, False))
        self.assertNotEqual(query, self.parent.split(":")[0])
        self.assertEqual((reply.generation, reply.revision), (before.generation, before.revision))
        # What the checkpoint makes of the queries, over what the parent made of the passages.
        queries, vectors = self.encode(QUERIES, "QUERY", self.alone), self.vectors("live")
        self.assertEqual(self.encode(QUERIES, "QUERY", reply.fingerprint), queries)
        texts = [passage["text"] for passage in PASSAGES]
        self.assertEqual(self.encode(texts[:4], "PASSAGE", reply.fingerprint), self.encode(texts[:4], "PASSAGE", self.parent))
        after = self.search("live")
        self.assertEqual((after.encoder_fingerprint, after.generation, after.revision), (reply.fingerprint, before.generation, before.revision))
        self.check_results(after, vectors, queries)
        self.assertNotEqual([[hit.score for hit in result.hits] for result in after.results], [[hit.score for hit in result.hits] for result in before.results])
        self.assertEqual(self.client.call("AdminService.GetStore", store="live").store.encoder_fingerprint, reply.fingerprint)
        self.assertEqual(self.search("beside").encoder_fingerprint, self.parent, "another store")
        # The session has what it leased.
        leased = self.client.call("TrainingService.Retrieve", session_id=session.session_id, query_texts=QUERIES, top_k=K)
        self.assertEqual(leased.encoder_fingerprint, self.parent)
        for result, old in zip(leased.results, before.results):
            self.assertEqual([hit.id for hit in result.hits], [hit.id for hit in old.hits])
        opened = self.client.call("TrainingService.OpenSession", store="live")
        self.assertEqual(opened.encoder_fingerprint, reply.fingerprint)
        # What is written meanwhile is encoded as before.
        new = self.client.message("Passage", id="p00", text="a letter from the mountain")
        self.client.call("AdminService.UpsertPassages", store="live", passages=[new])
        vectors = self.vectors("live")
        self.assertEqual(vectors["p00"], self.encode([new.text], "PASSAGE", self.parent)[0])
        self.check_results(self.search("live"), vectors, queries)

        again = self.send(store="live")
        self.assertEqual((again.fingerprint, again.was_there, again.live), (reply.fingerprint, True, True))
        self.restart()
        kept = self.search("live")
        self.assertEqual(kept.encoder_fingerprint, reply.fingerprint)
        self.check_results(kept, vectors, queries)
        self.assertEqual(self.search("beside").encoder_fingerprint, self.parent)
        with open(os.path.join(self.folder.name, "data", "encoders", reply.fingerprint.replace(":", "-"), "LINEAGE"), encoding="utf-8") as file:
            lineage = json.load(file)
        self.assertEqual((lineage["parent_fingerprint"], lineage["job"], lineage["metrics"]), (self.parent, "a test", {"loss": 0.5}))
        # It is taken back without its weights.
        back = self.publish([{"header": {"store": "live", "fingerprint": self.parent}}])
        self.assertEqual((back.fingerprint, back.live, back.was_there, back.job), (self.parent, True, True, ""))
        self.assertEqual(self.search("live").encoder_fingerprint, self.parent)

    def test_both_halves_and_generation_change_together(self) -> None:
        self.fill("both")
        before = self.search("both")
        seen = set()
        errors = []
        done = threading.Event()

        def watch() -> None:
            try:
                client = ReflectionClient(self.server.address, like=self.client)
                while not done.is_set():
                    reply = client.call("RetrievalService.Search", store="both", queries=[client.message("Query", text=QUERIES[0])], top_k=1)
                    seen.add((reply.generation, reply.encoder_fingerprint))
                client.close()
            except Exception as error:  # Else nobody would hear of it.
                errors.append(error)

        def until_seen(count: int) -> None:
            deadline = time.monotonic() + 120
            while len(seen) < count and not errors:
                self.assertLess(time.monotonic(), deadline, seen)
                time.sleep(0.01)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            until_seen(1)
            reply = self.send(halves="BOTH", store="both", max_encoder_share=1)
            self.assertEqual((reply.fingerprint, reply.live, reply.was_there, reply.generation), (self.alone, False, True, before.generation))
            job = self.await_job(reply.job)
            self.assertEqual((self.client.value("JobState", "JOB_STATE_SUCCEEDED"), job.store), (job.state, "both"), job)
            until_seen(2)
        finally:
            done.set()
            watcher.join()
        after = self.search("both")
        self.assertEqual(after.encoder_fingerprint, self.alone)
        self.assertNotEqual(after.generation, before.generation)
        self.assertEqual(errors, [])
        self.assertEqual(seen, {(before.generation, self.parent), (after.generation, self.alone)})
        vectors, queries = self.vectors("both"), self.encode(QUERIES, "QUERY", self.alone)
        self.assertEqual(vectors["p07"], self.encode([PASSAGES[7]["text"]], "PASSAGE", self.alone)[0])
        self.check_results(after, vectors, queries)
        # A query half on top of it, and each generation comes back to its own.
        with open(os.path.join(os.environ.get("LOCI_MODEL_DIR", "models/all-MiniLM-L6-v2"), "model.safetensors"), "rb") as file:
            original = file.read()
        further = self.send(original, store="both")
        self.assertTrue(further.live)
        self.assertEqual(further.fingerprint.split(":")[1], self.alone.split(":")[1])
        self.check_results(self.search("both"), vectors, self.encode(QUERIES, "QUERY", self.parent))
        self.client.call("AdminService.RollbackStore", store="both", writes_since=self.client.value("WritesSince", "WRITES_SINCE_REPLAY"))
        self.assertEqual(self.search("both").encoder_fingerprint, self.parent)
        self.client.call("AdminService.ActivateGeneration", store="both", generation=after.generation,
                         writes_since=self.client.value("WritesSince", "WRITES_SINCE_REPLAY"))
        self.assertEqual(self.search("both").encoder_fingerprint, further.fingerprint)

    def test_passage_weights_keep_the_query_weights(self) -> None:
        self.fill("passages")
        reply = self.send(halves="PASSAGE", store="passages", max_encoder_share=1)
        self.assertEqual(reply.fingerprint.split(":")[1], self.alone.split(":")[1])
        self.assertNotEqual(reply.fingerprint, self.alone)
        self.assertEqual(self.await_job(reply.job).state, self.client.value("JobState", "JOB_STATE_SUCCEEDED"))
        self.assertEqual(self.search("passages").encoder_fingerprint, reply.fingerprint)
        vectors = self.vectors("passages")
        self.assertEqual(vectors["p03"], self.encode([PASSAGES[3]["text"]], "PASSAGE", self.alone)[0])
        self.check_results(self.search("passages"), vectors, self.encode(QUERIES, "QUERY", self.parent))

    def test_without_a_store_it_is_stored(self) -> None:
        reply = self.send()
        self.assertEqual((reply.job, reply.live, reply.generation), ("", False, ""))
        self.assertEqual(self.encode(QUERIES, "QUERY", reply.fingerprint), self.encode(QUERIES, "QUERY", self.alone))

    def test_bad_streams_say_what_is_wrong_and_leave_nothing(self) -> None:
        self.fill("bad")
        invalid, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
        weights, good = self.weights, self.header()
        self.fails(invalid, [], "kind")
        self.fails(invalid, [{}], "kind")
        self.fails(invalid, [{"weights": b"x"}], "kind")
        self.fails(invalid, [{"header": good}, {"header": good}], "header")
        self.fails(invalid, [{"header": good}, {}], "kind")
        for field, value in {"halves": 0, "halves ": 7, "size_bytes": 0, "size_bytes ": (2 << 30) + 1, "size_bytes  ": -1, "sha256": "", "sha256 ": "0" * 63,
                             "sha256  ": "g" * 64, "job_name": "j" * 257, "max_encoder_share": 0.001, "max_encoder_share ": 1.5,
                             "max_encoder_share  ": float("nan"), "parent_fingerprint": "all-MiniLM-L6-v2", "parent_fingerprint ": "../../etc",
                             "fingerprint": self.parent, "no_activate": True}.items():
            with self.subTest(field=field, value=value):
                self.fails(invalid, [{"header": {**good, field.strip(): value}}], "header." + field.strip())
        for metrics in ({"": 1.0}, {"m" * 65: 1.0}, {"loss": float("inf")}, {"loss": float("nan")}, {str(i): 0.0 for i in range(65)}):
            self.assertIn("header.metrics", self.fails(invalid, [{"header": {**good, "metrics": metrics}}]))
        self.fails(invalid, [{"header": {**good, "store": "../x"}}], "store")
        self.fails(missing, [{"header": {**good, "store": "no-such-store"}}], reason="STORE_NOT_FOUND")
        self.fails(missing, [{"header": {**good, "parent_fingerprint": "0123456789abcdef"}}], reason="ENCODER_NOT_FOUND")
        self.fails(missing, [{"header": {"store": "bad", "fingerprint": "0123456789abcdef:0123456789abcdef"}}], reason="ENCODER_NOT_FOUND")
        self.fails(invalid, [{"header": {"fingerprint": self.parent}}], "header.store")
        self.fails(invalid, [{"header": {"store": "bad", "fingerprint": self.parent}}, {"weights": b"x"}], "weights")
        # A query half for other vectors than the store's.
        self.fails(grpc.StatusCode.FAILED_PRECONDITION, [{"header": {**good, "store": "bad", "parent_fingerprint": self.alone}}], reason="ENCODER_MISMATCH")
        # The weights.
        self.fails(invalid, [{"header": good}], "header.size_bytes", "WEIGHTS_MISMATCH")
        self.fails(invalid, [{"header": good}, *self.pieces(weights[:-1])], "header.size_bytes", "WEIGHTS_MISMATCH")
        self.fails(invalid, [{"header": good}, *self.pieces(weights + b"x")], "header.size_bytes", "WEIGHTS_MISMATCH")
        self.fails(invalid, [{"header": {**good, "sha256": "0" * 64}}, *self.pieces(weights)], "header.sha256", "WEIGHTS_MISMATCH")
        header_bytes = struct.unpack("<Q", weights[:8])[0]
        tensors = json.loads(weights[8:8 + header_bytes])
        name = next(name for name in sorted(tensors) if name.endswith("output.dense.bias"))

        def changed(header: dict[str, Any], data: bytes | None = None) -> bytes:
            text = json.dumps(header).encode()
            text += b" " * (-len(text) % 8)
            return struct.pack("<Q", len(text)) + text + (weights[8 + header_bytes:] if data is None else data)

        begin = 8 + header_bytes + tensors[name]["data_offsets"][0]
        for what, bad, says in (("not finite", weights[:begin] + struct.pack("<f", float("nan")) + weights[begin + 4:], name),
                                ("renamed", changed({("x." + key if key == name else key): value for key, value in tensors.items()}), "x." + name),
                                ("type", changed({key: ({**value, "dtype": "I32"} if key == name else value) for key, value in tensors.items()}), name),
                                ("shape", changed({key: ({**value, "shape": [1, *value["shape"]]} if key == name else value) for key, value in tensors.items()}), name),
                                ("cut", weights[:4096], "the file has only 4096"),
                                ("no format", b"PK\x03\x04" + bytes(100), "")):
            with self.subTest(what=what):
                details = self.fails(invalid, [{"header": self.header(bad, store="bad")}, *self.pieces(bad)], "weights", "ENCODER_INVALID")
                self.assertIn(says, details)
                self.assertNotIn(self.folder.name, details)
        self.assertEqual(self.search("bad").encoder_fingerprint, self.parent)
        # Bytes that are no message, and a client that goes away.
        stub = self.client.channel.stream_unary("/loci.v1.TrainingService/PublishEncoder", None, None)
        with self.assertRaises(grpc.RpcError) as raised:
            stub(iter([b"\xff\xff\xff"]), timeout=60)
        self.assertEqual(error_info(raised.exception).reason, "MALFORMED_MESSAGE")
        before = self.folders()
        hold = threading.Event()

        def stalled():
            request = self.client.message("PublishRequest", header=self.client.message("PublishHeader", **good))
            yield request.SerializeToString()
            yield self.client.message("PublishRequest", weights=weights[:1000]).SerializeToString()
            hold.wait(60)

        call = stub.future(stalled())
        deadline = time.monotonic() + 60
        running = self.client.value("JobState", "JOB_STATE_RUNNING")
        while not (jobs := self.client.call("AdminService.ListJobs", state=running).jobs):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)
        self.assertEqual(jobs[0].kind, "publish")
        with self.assertRaises(grpc.RpcError) as raised:
            self.publish([{"header": good}])
        self.assertEqual((raised.exception.code(), error_info(raised.exception).reason), (grpc.StatusCode.ABORTED, "JOB_IN_THE_WAY"))
        call.cancel()
        hold.set()
        while self.client.call("AdminService.ListJobs", state=running).jobs or self.folders() != before:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)


if __name__ == "__main__":
    main()
