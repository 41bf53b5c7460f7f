"""The client against a server: everything but training's gradients."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import unittest
import urllib.request
from unittest import mock

import grpc
import numpy as np
from loci_server import ReflectionClient, ServerProcess, delete_stores_and_stop, main

import loci
from loci import _matrix, _protocol

COUNT = 60
PATIENCE_S = 60


def unit_rows(count, dim, seed):
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class MatrixTest(unittest.TestCase):
    def test_what_is_sent_is_what_comes(self):
        values = np.arange(6).reshape(2, 3)
        for dtype in (np.float16, np.float32, np.float64):
            for given in (values.astype(dtype), np.asfortranarray(values.astype(dtype)), values.astype(np.dtype(dtype).newbyteorder(">"))):
                back = _matrix.decode(_matrix.encode(_matrix.as_matrix(given, "m")))
                self.assertEqual(back.dtype, dtype)
                np.testing.assert_array_equal(back, values)
                back[0, 0] = 7  # It is the caller's own.
        self.assertEqual(_matrix.as_matrix(values.tolist(), "m").dtype, np.float32)
        self.assertEqual(_matrix.decode(_matrix.encode(np.zeros((0, 5), np.float32))).shape, (0, 5))
        for wrong, error, says in ((np.zeros(3), ValueError, r"queries has shape \(3,\)"), (np.zeros((1, 2), complex), ValueError, "queries .* complex128"),
                                   (np.array(["a", "b"]), ValueError, "queries .* not real numbers"), ([[1.0], [2.0, 3.0]], (TypeError, ValueError), "queries"),
                                   ([[object()]], ValueError, "queries has what is no number"), (None, TypeError, "queries is a NoneType"),
                                   (b"ab", TypeError, "queries is a bytes"), ({1: 2}.keys(), TypeError, "queries is a dict_keys"), (3.0, ValueError, "shape")):
            with self.subTest(wrong=wrong), self.assertRaisesRegex(error, says):
                _matrix.as_matrix(wrong, "queries")

    def test_narrow_types_are_read(self):
        upper = (np.float32([[1.5, -2.0]]).view(np.uint32) >> 16).astype("<u2").tobytes()
        bfloat16 = _protocol.message("Matrix", rows=1, cols=2, type=_protocol.enum_number("VectorType", "BFLOAT16", ""), data=upper)
        np.testing.assert_array_equal(_matrix.decode(bfloat16), np.float32([[1.5, -2.0]]))
        int8 = _protocol.message("Matrix", rows=2, cols=2, type=_protocol.enum_number("VectorType", "INT8", ""), data=np.int8([1, -2, 3, 4]).tobytes(),
                                 scales=[0.5, 2.0])
        np.testing.assert_array_equal(_matrix.decode(int8), np.float32([[0.5, -1.0], [6.0, 8.0]]))


class ClientTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = ServerProcess()
        cls.client = loci.Client(cls.server.address)
        cls.info = cls.client.server_info()
        cls.encoder = cls.info.encoders[0]
        cls.vectors = unit_rows(COUNT, cls.encoder.dim, 1)
        cls.passages = [loci.Passage(f"p{i:03d}", f"Text of number {i}.", metadata={"even": i % 2 == 0, "number": i}) for i in range(COUNT)]
        cls.stores = []

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.client.close()
        delete_stores_and_stop(ReflectionClient(cls.server.address), cls.server, cls.stores)

    @classmethod
    def make_store(cls, store, count=COUNT):
        cls.stores.append(store)
        return cls.client.ingest(store, cls.passages[:count], vectors=cls.vectors[:count], encoder_fingerprint=cls.encoder.fingerprint)

    def raises(self, code, call, reason=None):
        with self.assertRaises(loci.LociError) as raised:
            call()
        self.assertEqual(raised.exception.code, code, raised.exception)
        if reason is not None:
            self.assertEqual(raised.exception.reason, reason)
        return raised.exception

    def metrics(self):
        with urllib.request.urlopen(f"http://{self.server.metrics_address}/metrics", timeout=10) as reply:
            return reply.read().decode()

    def eventually(self, condition):
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)

    def test_torch_is_not_imported_with_the_client(self):
        code = "import sys, loci; sys.exit(sum(name.split('.')[0] == 'torch' for name in sys.modules))"
        self.assertEqual(subprocess.run([sys.executable, "-c", code], check=False).returncode, 0)

    def test_encode(self):
        texts = ["the", "", "the"]
        reply = self.client.encode(texts, dtype=np.float64)
        self.assertEqual((reply.vectors.shape, reply.vectors.dtype), ((3, self.encoder.dim), np.float64))
        np.testing.assert_array_equal(reply.vectors[0], reply.vectors[2])
        self.assertEqual([usage.input_tokens for usage in reply.usage], [3, 2, 3])
        self.assertEqual(reply.encoder_fingerprint, self.encoder.fingerprint)
        self.assertEqual(self.client.encode("radium", role="query").vectors.dtype, np.float32)
        self.raises(grpc.StatusCode.NOT_FOUND, lambda: self.client.encode("a", encoder="no-such"))
        for folder, error in (("no-such", FileNotFoundError), (__file__, NotADirectoryError)):
            with self.assertRaises(error):
                self.client.import_encoder("missing", folder)
        self.raises(grpc.StatusCode.INVALID_ARGUMENT, lambda: self.client.encode("word " * 500, truncation="REFUSE"))

    def test_search_by_vectors_finds_what_numpy_finds(self):
        self.make_store("search")
        queries = unit_rows(3, self.encoder.dim, 2)
        found = self.client.search("search", queries, 5, include_vectors=True)
        wanted = np.argsort(-(queries.astype(np.float64) @ self.vectors.astype(np.float64).T), axis=1)[:, :5]
        self.assertEqual([[hit.id for hit in hits] for hits in found.results], [[f"p{i:03d}" for i in row] for row in wanted])
        np.testing.assert_array_equal(found.hits[0].vector, self.vectors[wanted[0, 0]])
        self.assertTrue(found.exact)
        self.assertEqual(found.hits[0].passage, self.passages[wanted[0, 0]])
        self.assertEqual(self.client.search("search", np.array(["a", "b"]), 2).results, self.client.search("search", ["a", "b"], 2).results)
        one = self.client.search("search", queries[1], 5, filter="not even", include_text=False)
        self.assertEqual((len(one.results), one.match_count), (1, COUNT // 2))
        self.assertTrue(all(int(hit.id[1:]) % 2 and hit.passage is None and hit.vector is None for hit in one.hits))
        error = self.raises(grpc.StatusCode.INVALID_ARGUMENT, lambda: self.client.search("search", "q", 5, filter="even ="))
        self.assertEqual(error.metadata["field"], "filter")
        self.raises(grpc.StatusCode.NOT_FOUND, lambda: self.client.search("no-such-store", "q"), "STORE_NOT_FOUND")

    def test_passages_are_written_read_and_deleted_with_all_their_fields(self):
        self.make_store("write", 3)
        passage = loci.Passage("curie", "Marie Curie discovered radium.", "Curie", {
            "year": 1898, "weight": 0.5, "living": False, "lang": "en", "tags": ["a", "b"], "none": []}, "doc", 3)
        written = self.client.upsert_passages("write", [passage, {"id": "plain", "text": "Plain text."}])
        self.assertEqual((written.count, len(written.usage)), (2, 2))
        got = self.client.get_passages("write", ["plain", "curie"], include_vectors=True)
        self.assertEqual(got.passages, [loci.Passage("plain", "Plain text."), passage])
        self.assertEqual((got.vectors.shape, got.vectors.dtype, got.revision), ((2, self.encoder.dim), np.float32, written.revision))
        self.assertIsInstance(got.passages[1].metadata["living"], bool)
        found = self.client.search("write", ["who discovered radium?", "plain"], 1)
        self.assertEqual(([hits[0].id for hits in found.results], found.usage[1].truncated), (["curie", "plain"], False))
        answered = self.client.answer("write", "Who discovered radium?", top_k=2)
        self.assertIn("Curie", answered.answers[0].text)
        evidence = answered.answers[0].evidence[0]
        self.assertEqual((evidence.passage_id, passage.text.encode()[evidence.start_byte:evidence.end_byte].decode()), ("curie", passage.text))
        self.assertEqual(self.client.delete_passages("write", ["curie", "curie2"]).count, 1)
        self.raises(grpc.StatusCode.NOT_FOUND, lambda: self.client.get_passages("write", ["curie"]))

    def test_stores_and_generations(self):
        self.stores.append("stores")
        self.assertEqual(self.client.create_store("stores", keep_generations=3).keep_generations, 3)
        self.raises(grpc.StatusCode.ALREADY_EXISTS, lambda: self.client.create_store("stores"))
        self.assertEqual(self.client.update_store("stores", keep_generations=2).keep_generations, 2)
        self.assertEqual(self.client.get_store("stores").encoder_precision, "auto")
        self.assertEqual(self.client.update_store("stores", encoder_precision="int8").encoder_precision, "int8")
        self.assertEqual(self.client.update_store("stores", keep_generations=2).encoder_precision, "int8")
        self.assertEqual(self.client.update_store("stores", encoder_precision="auto").encoder_precision, "auto")
        self.raises(grpc.StatusCode.INVALID_ARGUMENT, lambda: self.client.update_store("stores", encoder_precision="int4"))
        first = self.make_store("stores", 5)
        second = self.client.ingest("stores", iter(self.passages), vectors=iter(self.vectors), encoder_fingerprint=self.encoder.fingerprint, activate=False)
        self.assertTrue(first.done and second.done)
        self.assertEqual((second.accepted_count, second.passage_count), (COUNT, COUNT))
        generations = {generation.generation: generation for generation in self.client.list_generations("stores")}
        self.assertEqual([(generations[one.generation].state, generations[one.generation].passage_count) for one in (first, second)],
                         [("SERVING", 5), ("READY", COUNT)])
        self.assertLess(abs(generations[first.generation].created.timestamp() - time.time()), 3600)
        self.assertTrue(self.client.pin_generation("stores", second.generation).pinned)
        self.assertFalse(self.client.activate("stores", second.generation, dry_run=True).done)
        self.client.upsert_passages("stores", [loci.Passage("late", "Written since.")])
        self.raises(grpc.StatusCode.FAILED_PRECONDITION, lambda: self.client.activate("stores", second.generation), "WRITES_SINCE")
        activated = self.client.activate("stores", second.generation, writes_since="replay")
        self.assertEqual((activated.previous_generation, activated.writes_since_count), (first.generation, 1))
        self.assertEqual(self.client.get_store("stores").passage_count, COUNT + 1)
        self.assertEqual(self.client.rollback("stores", writes_since="DISCARD").generation, first.generation)
        self.assertFalse(self.client.pin_generation("stores", second.generation, False).pinned)
        self.client.delete_generation("stores", second.generation)
        self.assertEqual(len(self.client.list_generations("stores")), 1)
        self.assertIn("stores", [store.store for store in self.client.list_stores()])
        self.assertTrue(self.client.call("AdminService.VerifyGeneration", store="stores").done)
        with self.assertRaises(TypeError):
            self.client.delete_store("stores")
        self.client.delete_store("stores", confirm_name="stores")
        self.raises(grpc.StatusCode.NOT_FOUND, lambda: self.client.get_store("stores"))

    def test_jobs_are_waited_for(self):
        self.stores.append("jobs")
        seen = []
        result = self.client.ingest("jobs", self.passages, wait=False)
        self.assertFalse(result.done)
        job = self.client.wait_for_job(result.job, on_change=seen.append)
        self.assertEqual((job.state, job.kind, seen[-1], job.running), ("SUCCEEDED", "ingest", job, False))
        self.assertEqual(self.client.get_job(result.job).state, "SUCCEEDED")
        self.assertIn(result.job, [job.job for job in self.client.list_jobs("jobs", state="SUCCEEDED")])
        self.raises(grpc.StatusCode.FAILED_PRECONDITION, lambda: self.client.cancel_job(result.job), "JOB_FINISHED")
        self.raises(grpc.StatusCode.NOT_FOUND, lambda: self.client.wait_for_job("no-such"), "JOB_NOT_FOUND")

    def test_a_job_that_was_cancelled_is_an_error(self):
        self.stores.append("cancelled")
        released = threading.Event()
        self.addCleanup(released.set)

        def endless():
            yield from self.passages
            released.wait(PATIENCE_S)

        failures = []

        def ingest():
            try:
                self.client.ingest("cancelled", endless())
            except loci.LociError as error:
                failures.append(error)

        thread = threading.Thread(target=ingest)
        thread.start()
        self.eventually(lambda: self.client.list_jobs("cancelled", state="RUNNING"))
        job = self.client.list_jobs("cancelled")[0].job
        with self.assertRaises(loci.LociError) as raised:
            self.client.wait_for_job(job, timeout_s=0.3)
        self.assertEqual(raised.exception.code, grpc.StatusCode.DEADLINE_EXCEEDED)
        self.client.cancel_job(job)
        self.assertEqual(self.raises(grpc.StatusCode.CANCELLED, lambda: self.client.wait_for_job(job)).reason, "JOB_CANCELLED")
        released.set()
        thread.join()
        self.assertEqual(len(failures), 1)

    def test_an_ingest_whose_passages_fail_leaves_nothing(self):
        self.make_store("failing", 4)

        def ingest(*args, **options):
            """Again while the server still has some that were given up, which it may begin after their client has gone."""
            while True:
                try:
                    return self.client.ingest(*args, **options)
                except loci.LociError as error:
                    if error.reason not in ("JOB_IN_THE_WAY", "OVERLOADED"):
                        raise

        def passages():
            for i in range(1500):  # More than a batch: some of it was sent.
                yield loci.Passage(f"q{i}", "")
            raise KeyError("the source is gone")

        with self.assertRaises(KeyError):
            ingest("failing", passages(), vectors=(self.vectors[0] for _ in range(1500)), encoder_fingerprint=self.encoder.fingerprint)
        for broken, error in (([{"id": "a", "no": 1}], ValueError), ([loci.Passage("a"), None], TypeError)):
            with self.assertRaises(error):
                ingest("failing", broken)
        for vectors, says in ((self.vectors[:3], "fewer vectors than passages"), (self.vectors[:5], "more vectors than passages"),
                              ([*self.vectors[:3], self.vectors[3, 1:]], "vectors has rows of the shapes"), (["a"] * 4, "vectors is a str")):
            with self.assertRaisesRegex((ValueError, TypeError), says):
                ingest("failing", self.passages[:4], vectors=vectors, encoder_fingerprint=self.encoder.fingerprint)
        self.assertEqual((self.client.get_store("failing").passage_count, len(self.client.list_generations("failing"))), (4, 1))
        result = ingest("failing", [loci.Passage("ok", "text"), loci.Passage("", "no id")], mode="upsert")
        self.assertEqual((result.accepted_count, result.rejected_count, result.errors[0].line), (1, 1, 2))
        self.raises(grpc.StatusCode.INVALID_ARGUMENT, lambda: ingest("failing", [loci.Passage("", "no id")], bad_lines="FAIL"), "BAD_LINE")
        chunked = ingest("failing", [{"id": "doc", "text": "A sentence of some words. " * 40}], mode="UPSERT",
                                     chunking=loci.Chunking(max_tokens=32, overlap_tokens=8))
        self.assertGreater(chunked.passage_count, 5)

    def test_an_ingest_of_which_nothing_was_taken_is_an_error(self):
        self.make_store("rejecting", 4)
        for options in ({}, {"wait": False}, {"mode": "UPSERT"}):
            for passages, vectors, says in (([loci.Passage("", "a"), loci.Passage("x" * 1000, "b")], None, r"none of 2 passages.*line 1, id ''"),
                                            (self.passages[:3], np.full((3, self.encoder.dim), np.nan), r"none of 3 passages.*line 1, id 'p000'")):
                with self.subTest(options=options, says=says):
                    error = self.raises(grpc.StatusCode.INVALID_ARGUMENT, lambda: self.client.ingest(
                        "rejecting", passages, vectors=vectors, encoder_fingerprint=self.encoder.fingerprint if vectors is not None else "", **options),
                        "EMPTY_INGEST")
                    self.assertRegex(str(error), says)
                    self.eventually(lambda: not self.client.list_jobs("rejecting", state="RUNNING"))
        self.raises(grpc.StatusCode.INVALID_ARGUMENT, lambda: self.client.ingest("rejecting", []), "EMPTY_INGEST")
        self.assertEqual((self.client.get_store("rejecting").passage_count, len(self.client.list_generations("rejecting"))), (4, 1))

    def test_the_example_of_the_client_runs(self):
        self.stores.append("facts")
        example = re.search(r"(?m)(?:^        .*\n)+", loci.Client.__doc__)[0]
        with mock.patch("sys.stdout", io.StringIO()) as printed:
            exec(textwrap.dedent(example).replace("127.0.0.1:7440", self.server.address), {"loci": loci})
        self.assertIn("Marie Curie discovered radium.", printed.getvalue())

    def test_a_client_that_is_killed_halfway_leaves_nothing(self):
        self.make_store("killed", 4)
        code = textwrap.dedent(f"""
            import itertools, sys, loci
            client = loci.Client({self.server.address!r})
            session = client.open_session("killed", lease_ms=1000)
            print(session.session_id, flush=True)
            client.ingest("killed", (loci.Passage(f"q{{i}}", f"Text {{i}}.") for i in itertools.count()))
        """)
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        session_id = process.stdout.readline().strip()
        self.eventually(lambda: any(job.done > 0 for job in self.client.list_jobs("killed", state="RUNNING")))
        process.kill()
        process.wait()
        process.stdout.close()
        self.eventually(lambda: not self.client.list_jobs("killed", state="RUNNING"))
        self.assertEqual((self.client.get_store("killed").passage_count, len(self.client.list_generations("killed"))), (4, 1))
        self.eventually(lambda: f'session="{session_id[:8]}"' not in self.metrics())
        self.assertTrue(self.make_store("killed", 6).done)

    def test_progress_is_shown_on_a_terminal_alone(self):
        class Terminal(io.StringIO):
            def isatty(self):
                return True

        self.stores.append("progress")
        with mock.patch("sys.stderr", Terminal()) as terminal:
            self.client.ingest("progress", self.passages)
            self.assertRegex(terminal.getvalue(), r"\ringest progress: 60/60 passages \[#{20}\] 100%\n$")
        with mock.patch("sys.stderr", Terminal()) as terminal:
            self.client.wait_for_job(self.client.list_jobs("progress")[0].job)
            self.assertRegex(terminal.getvalue(), r"\ringest \w+: .*\n$")
        for stream in (io.StringIO(), None):
            with mock.patch("sys.stderr", stream):
                self.client.ingest("progress", self.passages)
            self.assertEqual(stream.getvalue() if stream else "", "")
        with mock.patch("sys.stderr", Terminal()) as terminal:
            self.client.ingest("progress", self.passages, progress=False)
            self.assertEqual(terminal.getvalue(), "")

    def test_one_client_serves_many_threads(self):
        self.make_store("threads")
        wrong = []

        def run(seed):
            for i in range(10):
                row = (seed * 7 + i) % COUNT
                if self.client.search("threads", self.vectors[row], 1).hits[0].id != f"p{row:03d}":
                    wrong.append(row)

        threads = [threading.Thread(target=run, args=(seed,)) for seed in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])

    def test_sessions_see_one_view_and_are_closed(self):
        self.make_store("sessions")
        with self.client.open_session("sessions") as session:
            self.assertEqual((session.passage_count, session.dim, session.lease_ms), (COUNT, self.encoder.dim, 60_000))
            self.client.delete_passages("sessions", ["p000"])
            found = session.retrieve(self.vectors[:2], 3)
            self.assertEqual((found.ids[0][0], found.revision), ("p000", session.revision))
            again = session.retrieve(["a text"], 3)
            self.assertEqual(again.usage[0].used_tokens, 4)
        self.raises(grpc.StatusCode.NOT_FOUND, lambda: session.retrieve(self.vectors[:1], 3), "SESSION_NOT_FOUND")
        session.close()
        # One that nobody closed, and nobody knows, is not renewed any more.
        thread = (lost := self.client.open_session("sessions", lease_ms=3000))._renewal._thread
        del lost
        thread.join(PATIENCE_S)
        self.assertFalse(thread.is_alive())
        with loci.Client(self.server.address) as client:
            session = client.open_session("sessions", lease_ms=3_600_000)
        session._renewal._thread.join(PATIENCE_S)
        self.assertFalse(session._renewal._thread.is_alive())
        session.close()

    def test_a_session_fills_up_what_is_missing(self):
        self.make_store("short", 3)
        with self.client.open_session("short") as session:
            found = session.retrieve(self.vectors[:2].astype(np.float64), 5, include_text=True, include_vectors=True, include_mean_vectors=True,
                                     exclusions=[["p000"], ["p000", "p001", "p002"]])
            self.assertEqual((found.hit_counts.tolist(), found.ids[0][2:], found.ids[1]), ([2, 0], ["", "", ""], [""] * 5))
            self.assertTrue(np.isneginf(found.log_probs[0, 2:]).all() and np.isneginf(found.log_probs[1]).all() and np.isfinite(found.log_probs[0, :2]).all())
            self.assertTrue(np.isnan(found.scores[0, 2:]).all())
            self.assertEqual((found.vectors.shape, found.mean_vectors.dtype), ((2, 5, self.encoder.dim), np.float64))
            self.assertTrue((found.vectors[0, 2:] == 0).all() and found.passages[0][2] is None and found.passages[0][0].text)
            gradients = session.backward(found, np.full((2, 6), -1.0), include_passage_gradients=True, max_log_likelihood=0.0)
            self.assertEqual((gradients.query_gradients.shape, gradients.query_gradients.dtype), ((2, self.encoder.dim), np.float64))
            self.assertTrue((gradients.passage_gradients[1] == 0).all() and np.isneginf(gradients.log_marginals[1]))
            rows = session.backward(found, np.full((3, 6), -1.0, np.float32), row_query=[0, 0, 1])
            self.assertEqual((rows.log_marginals.shape, rows.query_gradients.dtype), ((3,), np.float32))
            for wrong in ({}, {"log_likelihoods": np.zeros((2, 6)), "grad_log_probs": np.zeros((2, 6))}):
                with self.assertRaises(ValueError):
                    session.backward(found, **wrong)
            self.raises(grpc.StatusCode.INVALID_ARGUMENT, lambda: session.backward(found, np.zeros((2, 5))))
            for ids in (["p000"], "p", ("p000", None)):
                with self.assertRaisesRegex(TypeError, "exclusions.*one list of ids a query"):
                    session.retrieve(self.vectors[:1], 2, exclusions=ids)
            self.assertEqual(session.retrieve(self.vectors[:2], 3, exclusions=[{"p000", "p001"}, None]).hit_counts.tolist(), [1, 3])
            self.assertEqual(session.retrieve(self.vectors[0], 1).ids, session.retrieve(self.vectors[:1], 1).ids)
            with self.assertRaisesRegex(ValueError, "queries has 5000 rows, the most are 4096"):
                session.retrieve(np.zeros((5000, self.encoder.dim), np.float32), 1)
            for temperature in (0, -1.0, np.nan, np.inf, 1e13):
                with self.assertRaisesRegex(ValueError, "temperature is .* 1e-12 to 1e12"):
                    session.retrieve(self.vectors[:1], 2, temperature=temperature)
            with self.assertRaisesRegex(ValueError, "ESTIMATOR|estimator"):
                session.retrieve(self.vectors[:1], 2, estimator="SOME_Z")

    def test_a_lease_is_renewed_and_one_that_is_not_ends(self):
        self.make_store("lease")
        renewals = lambda: sum(int(line.split()[-1]) for line in self.metrics().splitlines()
                               if line.startswith('loci_requests_total{code="OK",method="RenewSession"}'))
        before = renewals()
        with self.client.open_session("lease", lease_ms=3000) as session:
            self.eventually(lambda: renewals() >= before + 2)
            self.assertIsNone(session.lost)
            session.retrieve(self.vectors[:1], 1)
        with self.client.open_session("lease", lease_ms=1000) as session:
            session._renewal.stop()  # As of a process that hangs.
            self.eventually(lambda: f'session="{session.session_id[:8]}"' not in self.metrics())
            error = self.raises(grpc.StatusCode.NOT_FOUND, lambda: session.retrieve(self.vectors[:1], 1), "SESSION_NOT_FOUND")
            self.assertIn("expired", error.message)
        shared = self.client.shared_session("lease")
        self.assertIs(self.client.shared_session("lease"), shared)
        self.client.call("TrainingService.CloseSession", session_id=shared.session_id)  # Lost, as by a restart.
        shared._renewal._lease_s = 0.3
        shared._renewal._run()
        self.assertEqual(shared.lost.reason, "SESSION_NOT_FOUND")
        opened = self.client.shared_session("lease")
        self.assertIsNot(opened, shared)
        self.client.delete_passages("lease", ["p000"])
        self.assertEqual((opened.passage_count, self.client.shared_session("lease", refresh=True).passage_count), (COUNT, COUNT - 1))


class RestartTest(unittest.TestCase):
    def test_a_client_goes_on_after_the_server_came_back(self):
        with tempfile.TemporaryDirectory(prefix="loci_data_") as data_dir:
            server = ServerProcess(data_dir)
            if server.process is None:
                self.skipTest("a server that runs already is not restarted")
            self.addCleanup(lambda: server.process and server.process.kill())
            address = server.address
            client = loci.Client(address, retry=loci.RetryPolicy(max_attempts=200, max_backoff_s=0.5))
            client.ingest("restart", [loci.Passage("a", "A text.")])
            session = client.open_session("restart")
            server.process.kill()  # No warning.
            server.process.wait()
            found = []
            searching = threading.Thread(target=lambda: found.append(client.search("restart", "a text", 1)))
            searching.start()
            server.process.stdout.close()
            server = ServerProcess(data_dir, ["--listen", address])
            searching.join()
            self.assertEqual(found[0].hits[0].id, "a")
            with self.assertRaises(loci.LociError) as raised:
                session.retrieve(np.ones((1, session.dim), np.float32), 1)
            self.assertEqual((raised.exception.code, raised.exception.reason), (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"))
            self.assertIs(session.lost, raised.exception)
            session.close()
            with client.open_session("restart") as session:
                self.assertEqual(session.retrieve(np.ones((1, session.dim), np.float32), 1).ids, [["a"]])
            client.close()
            self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    main()
