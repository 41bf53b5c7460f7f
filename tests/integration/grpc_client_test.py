"""A client that is not ours: grpcio and server reflection, nothing generated from this repository's protos.

The server is the binary in $LOCI_SERVER_BINARY (encoder: $LOCI_MODEL_DIR), or the running one at $LOCI_SERVER.
"""

import array
import math
import os
import unittest

import grpc
from loci_server import ReflectionClient, ServerProcess, delete_stores_and_stop, error_info, main

CORPUS = {
    "sky": ("The sky", "The sky is blue because air molecules scatter short wavelengths of sunlight more than long ones."),
    "pdf": ("poppler-utils", "PDF utilities: pdftotext converts a PDF document into plain text."),
    "bread": ("Baking", "Bread rises because yeast turns sugar into carbon dioxide, which is trapped by gluten."),
    "moon": ("Apollo 11", "Neil Armstrong was the first person to walk on the Moon, on 20 July 1969."),
    "heart": ("Anatomy", "The human heart has four chambers: two atria and two ventricles."),
    "whale": ("Whales", "The blue whale is the largest animal that has ever lived. It weighs up to 190 tonnes."),
    "münchen": ("Grüße 🌍", "Zum Oktoberfest in München kommen jedes Jahr Millionen Menschen."),
}
SERVICES = ("loci.v1.RetrievalService", "loci.v1.AdminService")


def floats(matrix):
    """The rows of a float32 Matrix."""
    values = array.array("f", matrix.data)
    assert len(values) == matrix.rows * matrix.cols, (len(values), matrix.rows, matrix.cols)
    return [list(values[row * matrix.cols:(row + 1) * matrix.cols]) for row in range(matrix.rows)]


class GrpcClientTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = ServerProcess()
        cls.client = ReflectionClient(cls.server.address)
        cls.stores = []

    @classmethod
    def tearDownClass(cls):
        delete_stores_and_stop(cls.client, cls.server, cls.stores)

    def passage(self, passage_id, text=None, **fields):
        title, corpus_text = CORPUS.get(passage_id, ("", ""))
        return self.client.message("Passage", id=passage_id, title=title, text=text if text is not None else corpus_text, **fields)

    def make_store(self, name):
        """A store with the corpus in it."""
        self.stores.append(name)
        response = self.client.ingest({"store": name}, [{"passages": [self.passage(passage_id) for passage_id in CORPUS]}])
        self.assertTrue(response.done)
        self.assertEqual((response.accepted_count, response.rejected_count), (len(CORPUS), 0))
        return response

    def search(self, store, *texts, top_k=3, **fields):
        queries = [self.client.message("Query", text=text) for text in texts]
        return self.client.call("RetrievalService.Search", store=store, queries=queries, top_k=top_k, **fields)

    def matrix(self, rows, data_type="VECTOR_TYPE_FLOAT32"):
        data = array.array("f", [value for row in rows for value in row]).tobytes()
        return self.client.message("Matrix", rows=len(rows), cols=len(rows[0]), type=self.client.value("VectorType", data_type), data=data)

    def fails(self, code, method, message="", **fields):
        """Calls, and returns the ErrorInfo of the error that must come."""
        with self.assertRaises(grpc.RpcError) as raised:
            self.client.call(method, **fields)
        self.assertEqual(raised.exception.code(), code, raised.exception.details())
        self.assertIn(message, raised.exception.details())
        info = error_info(raised.exception)
        self.assertRegex(info.reason, r"^[A-Z][A-Z0-9_]+$")
        self.assertTrue(info.domain)
        return info

    def test_a_message_that_can_not_be_parsed_ends_an_ingest(self):
        """It must not look like the end of the stream, which would activate half a corpus."""
        before = self.make_store("parse")
        header = self.client.message("IngestRequest", header=self.client.message("IngestHeader", store="parse")).SerializeToString()
        batch = self.client.message("IngestRequest", batch=self.client.message("PassageBatch", passages=[self.passage("sky")])).SerializeToString()
        ingest = self.client.channel.stream_unary("/loci.v1.AdminService/Ingest")
        not_utf8 = b"\x12\x07\x0a\x05\x0a\x03a\xffb"  # batch { passages { id: "a\xffb" } }
        for broken in (b"\x12\xff", not_utf8):
            with self.assertRaises(grpc.RpcError) as raised:
                ingest(iter([header, batch, broken, batch]), timeout=60)
            self.assertEqual(raised.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
            self.assertEqual(error_info(raised.exception).reason, "MALFORMED_MESSAGE")
        self.assertEqual(self.client.call("AdminService.GetStore", store="parse").store.generation, before.generation)

    def test_reflection_and_health(self):
        services = self.client.database.get_services()
        for service in SERVICES:
            self.assertIn(service, services)
            self.assertEqual(self.client.health(service), 1)
        self.assertEqual(self.client.health(), 1)
        with self.assertRaises(grpc.RpcError) as raised:
            self.client.health("loci.v1.NoSuchService")
        self.assertEqual(raised.exception.code(), grpc.StatusCode.NOT_FOUND)

    def test_encode(self):
        texts = ["A heist in space.", "", "Grüße aus 東京 🌍", "word " * 2000]
        response = self.client.call("RetrievalService.Encode", texts=texts)
        rows = floats(response.vectors)
        self.assertEqual(len(rows), len(texts))
        for row in rows:
            self.assertAlmostEqual(math.fsum(value * value for value in row), 1, places=5)
        self.assertRegex(response.encoder_fingerprint, r"^[0-9a-f]{16}:[0-9a-f]{16}$")
        self.assertEqual(response.usage[1].input_tokens, 2)
        self.assertFalse(response.usage[0].truncated)
        self.assertTrue(response.usage[3].truncated)
        self.assertEqual(response.usage[3].used_tokens, 256)
        self.assertGreater(response.usage[3].input_tokens, 2000)
        # The same bits whatever else is in the batch.
        for text, row in zip(texts, rows):
            alone = self.client.call("RetrievalService.Encode", texts=[text], encoder=response.encoder_fingerprint)
            self.assertEqual(floats(alone.vectors), [row])
        half = self.client.call("RetrievalService.Encode", texts=texts[:1], vector_type=self.client.value("VectorType", "VECTOR_TYPE_FLOAT16"))
        self.assertEqual(len(half.vectors.data), 2 * len(rows[0]))

    def test_stores(self):
        self.stores.append("py-empty")
        created = self.client.call("AdminService.CreateStore", store="py-empty")
        self.assertEqual(created.store.store, "py-empty")
        self.fails(grpc.StatusCode.ALREADY_EXISTS, "AdminService.CreateStore", "py-empty", store="py-empty")
        self.assertIn("py-empty", [store.store for store in self.client.call("AdminService.ListStores").stores])
        self.fails(grpc.StatusCode.FAILED_PRECONDITION, "RetrievalService.Search", store="py-empty", top_k=1,
                   queries=[self.client.message("Query", text="x")])
        self.fails(grpc.StatusCode.INVALID_ARGUMENT, "AdminService.DeleteStore", store="py-empty", confirm_name="other")
        self.client.call("AdminService.DeleteStore", store="py-empty", confirm_name="py-empty")
        self.fails(grpc.StatusCode.NOT_FOUND, "AdminService.GetStore", "py-empty", store="py-empty")
        for name in ("../up", "UPPER", "a" * 65, "a b"):
            self.fails(grpc.StatusCode.INVALID_ARGUMENT, "AdminService.CreateStore", store=name)

    def test_ingest_search_by_text_and_by_vector(self):
        ingested = self.make_store("py-search")
        response = self.search("py-search", "Which program turns a PDF into text?", "Who first set foot on the lunar surface?",
                               include_text=True, include_vectors=True)
        self.assertEqual([result.hits[0].id for result in response.results], ["pdf", "moon"])
        self.assertEqual((response.store, response.generation, response.exact), ("py-search", ingested.generation, True))
        for result in response.results:
            self.assertEqual(len(result.hits), 3)
            scores = [hit.score for hit in result.hits]
            self.assertEqual(scores, sorted(scores, reverse=True))
            for hit in result.hits:
                self.assertEqual((hit.passage.title, hit.passage.text), CORPUS[hit.id])
        # The vector of the query, given in its place, finds the same with the same scores.
        role = self.client.value("TextRole", "TEXT_ROLE_QUERY")
        encoded = self.client.call("RetrievalService.Encode", texts=["Which program turns a PDF into text?"], role=role)
        by_vector = self.client.call("RetrievalService.Search", store="py-search", top_k=3,
                                     queries=[self.client.message("Query", vector=encoded.vectors)])
        self.assertEqual([(hit.id, hit.score) for hit in by_vector.results[0].hits], [(hit.id, hit.score) for hit in response.results[0].hits])
        # A score is the inner product with the vector that was scored.
        query = floats(encoded.vectors)[0]
        for hit in response.results[0].hits:
            self.assertAlmostEqual(math.fsum(a * b for a, b in zip(query, floats(hit.vector)[0])), hit.score, places=5)
        everything = self.search("py-search", "anything", top_k=10000)
        self.assertEqual({hit.id for hit in everything.results[0].hits}, set(CORPUS))

    def test_ingest_with_vectors(self):
        self.stores.append("py-vectors")
        encoded = self.client.call("RetrievalService.Encode", texts=["x"])
        dim, header = encoded.vectors.cols, {"store": "py-vectors", "encoder_fingerprint": encoded.encoder_fingerprint}
        rows = [[1.0 if column == row else 0.0 for column in range(dim)] for row in range(4)]
        passages = [self.client.message("Passage", id=f"v{row}", text=f"text {row}") for row in range(4)]
        response = self.client.ingest(header, [{"passages": passages, "vectors": self.matrix(rows)}])
        self.assertEqual(response.accepted_count, 4)
        found = self.client.call("RetrievalService.Search", store="py-vectors", top_k=4,
                                 queries=[self.client.message("Query", vector=self.matrix([rows[2]]))])
        # Equal scores are ordered by id.
        self.assertEqual([(hit.id, hit.score) for hit in found.results[0].hits], [("v2", 1), ("v0", 0), ("v1", 0), ("v3", 0)])
        with self.assertRaises(grpc.RpcError) as raised:
            self.client.ingest(header, [{"passages": passages, "vectors": self.matrix([row[:-1] for row in rows])}])
        self.assertEqual(raised.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)

    def test_ask(self):
        self.make_store("py-ask")
        response = self.client.call("RetrievalService.Answer", store="py-ask", question="Who was the first person to walk on the Moon?")
        self.assertFalse(response.abstained)
        self.assertEqual(response.answers[0].text, CORPUS["moon"][1])
        self.assertGreater(response.answers[0].score, 0.5)
        self.assertTrue(response.generation and response.reader)
        for answer in response.answers:
            for evidence in answer.evidence:
                text = CORPUS[evidence.passage_id][1].encode()
                self.assertEqual(text[evidence.start_byte:evidence.end_byte].decode(), answer.text)
        self.assertEqual({hit.id for hit in response.passages if hit.passage.text}, {hit.id for hit in response.passages})
        self.fails(grpc.StatusCode.INVALID_ARGUMENT, "RetrievalService.Answer", "question", store="py-ask", question="")
        self.fails(grpc.StatusCode.NOT_FOUND, "RetrievalService.Answer", store="py-ask", question="x", reader="no-such-reader")

    def test_upsert_delete_and_get_passages(self):
        self.make_store("py-writes")
        value = self.client.message
        passage = self.passage("new", "The axolotl is a salamander that keeps its larval gills.", document_id="doc", chunk_index=2, metadata={
            "s": value("MetadataValue", string_value="ü"), "i": value("MetadataValue", int64_value=-2**63),
            "d": value("MetadataValue", double_value=0.5), "b": value("MetadataValue", bool_value=True),
            "l": value("MetadataValue", string_list_value=value("StringList", values=["x", ""]))})
        upserted = self.client.call("AdminService.UpsertPassages", store="py-writes", passages=[passage, self.passage("sky", "Cats purr.")])
        self.assertEqual(upserted.upserted_count, 2)
        found = self.search("py-writes", "Which amphibian has gills as an adult?", "noise that a kitten makes")
        self.assertEqual([result.hits[0].id for result in found.results], ["new", "sky"])
        self.assertGreaterEqual(found.revision, upserted.revision)
        got = self.client.call("AdminService.GetPassages", store="py-writes", ids=["new", "moon"], include_vectors=True)
        self.assertEqual(got.passages[0], passage)
        self.assertEqual([passage.id for passage in got.passages], ["new", "moon"])
        self.assertEqual(got.vectors.rows, 2)
        deleted = self.client.call("AdminService.DeletePassages", store="py-writes", ids=["new", "moon", "never-there"])
        self.assertEqual(deleted.deleted_count, 2)
        self.assertGreater(deleted.revision, upserted.revision)
        ids = {hit.id for hit in self.search("py-writes", "the first person on the Moon", top_k=100).results[0].hits}
        self.assertEqual(ids, set(CORPUS) - {"moon"})
        info = self.fails(grpc.StatusCode.NOT_FOUND, "AdminService.GetPassages", "moon", store="py-writes", ids=["sky", "moon"])
        self.assertIn("moon", info.metadata.values())

    def test_generations(self):
        first = self.make_store("py-generations")
        second = self.client.ingest({"store": "py-generations", "no_activate": True}, [{"passages": [self.passage("sky")]}])
        self.assertNotEqual(first.generation, second.generation)
        listed = self.client.call("AdminService.ListGenerations", store="py-generations")
        self.assertEqual(listed.generation, first.generation)
        self.assertEqual({g.generation: g.passage_count for g in listed.generations}, {first.generation: len(CORPUS), second.generation: 1})
        pinned = self.search("py-generations", "x", top_k=100, generation=second.generation)
        self.assertEqual([hit.id for hit in pinned.results[0].hits], ["sky"])
        activated = self.client.call("AdminService.ActivateGeneration", store="py-generations", generation=second.generation)
        self.assertEqual((activated.generation, activated.previous_generation), (second.generation, first.generation))
        self.assertEqual(len(self.search("py-generations", "x", top_k=100).results[0].hits), 1)
        self.fails(grpc.StatusCode.NOT_FOUND, "AdminService.ActivateGeneration", store="py-generations", generation="no-such")

    def test_requests_that_are_refused(self):
        self.make_store("py-errors")
        dim = self.client.call("RetrievalService.Encode", texts=["x"]).vectors.cols
        text = [self.client.message("Query", text="x")]
        vector = lambda values, **changes: [self.client.message("Query", vector=self.changed(self.matrix(values), **changes))]
        invalid, search = grpc.StatusCode.INVALID_ARGUMENT, "RetrievalService.Search"
        for top_k in (0, -1, 10001, 2**31 - 1):
            self.fails(invalid, search, "top_k", store="py-errors", queries=text, top_k=top_k)
        for queries in ([], [self.client.message("Query", text="")], [self.client.message("Query")],
                        vector([[0.5] * (dim - 1)]), vector([[0.5] * (dim - 1) + [math.nan]]), vector([[0.5] * (dim - 1) + [math.inf]]),
                        vector([[0.5] * dim], data=b"abc"), vector([[0.5] * dim], rows=2), vector([[0.5] * dim], rows=-1),
                        vector([[0.5] * dim], rows=2**62, cols=4), vector([[0.5] * dim] * 2)):
            self.fails(invalid, search, store="py-errors", queries=queries, top_k=1)
        self.fails(grpc.StatusCode.NOT_FOUND, search, "no-such-store", store="no-such-store", queries=text, top_k=1)
        self.fails(grpc.StatusCode.NOT_FOUND, search, store="py-errors", generation="no-such", queries=text, top_k=1)
        self.fails(grpc.StatusCode.NOT_FOUND, "RetrievalService.Encode", texts=["x"], encoder="0123456789abcdef:0123456789abcdef")
        self.fails(invalid, search, "filter has 'three' at byte 7", store="py-errors", queries=text, top_k=1, filter="year > three")
        self.fails(grpc.StatusCode.NOT_FOUND, "AdminService.GetJob", "no-such-job", job="no-such-job")
        self.fails(invalid, "AdminService.UpsertPassages", store="py-errors",
                   passages=[self.passage("sky", "changed"), self.client.message("Passage", text="no id")])
        # Nothing of the refused batch was written.
        got = self.client.call("AdminService.GetPassages", store="py-errors", ids=["sky"])
        self.assertEqual(got.passages[0].text, CORPUS["sky"][1])

    @staticmethod
    def changed(message, **fields):
        for name, value in fields.items():
            setattr(message, name, value)
        return message

    def test_survives_what_grpc_itself_refuses(self):
        raw = self.client.channel.unary_unary("/loci.v1.RetrievalService/Encode")
        for request in (b"\x12\x02\xff\xfe", b"\xff\xff\xff", os.urandom(100)):  # texts: "\xff\xfe"; no message at all.
            with self.assertRaises(grpc.RpcError):
                raw(request, timeout=10)
        with self.assertRaises(grpc.RpcError) as raised:
            raw(b"\x12" + b"\x80\x80\x80\x21" + b"a" * (66 << 20), timeout=60)
        self.assertEqual(raised.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertEqual(self.client.health(), 1)
        self.assertEqual(self.client.call("RetrievalService.Encode", texts=["still here"]).vectors.rows, 1)

    def test_server_info(self):
        info = self.client.call("AdminService.GetServerInfo")
        self.assertTrue(info.version)
        self.assertEqual(sum(device.chosen for device in info.devices), 1)
        self.assertEqual(info.encoders[0].dim, self.client.call("RetrievalService.Encode", texts=["x"]).vectors.cols)
        self.assertEqual(info.limits.max_top_k, 10000)


if __name__ == "__main__":
    main()
