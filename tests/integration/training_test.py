"""A training job's calls, by a client that knows them from reflection alone, against a reference in plain Python.

The server is the binary in $LOCI_SERVER_BINARY (encoder: $LOCI_MODEL_DIR), or the running one at $LOCI_SERVER.
"""

from __future__ import annotations

import array
import math
import random
import re
import threading
import time
import unittest
import urllib.request
from operator import mul
from typing import Any

import grpc
from loci_server import ReflectionClient, ServerProcess, delete_stores_and_stop, error_info, main

DIM = 384
COUNT = 120
K = 6
INF = math.inf


def dot(a: list[float], b: list[float]) -> float:
    return math.fsum(map(mul, a, b))


def unit(rng: random.Random) -> list[float]:
    vector = [rng.gauss(0, 1) for _ in range(DIM)]
    length = math.sqrt(dot(vector, vector))
    return list(array.array("f", [value / length for value in vector]))


def log_sum(values: list[float]) -> float:
    top = max(values, default=-INF)
    return top if top == -INF else top + math.log(math.fsum(math.exp(value - top) for value in values))


def mean(weights: list[float], vectors: list[list[float]]) -> list[float]:
    return [dot(weights, column) for column in zip(*vectors)] if vectors else [0.0] * DIM


class World:
    """What a query should find: the formulas with all passages at hand, in float64."""

    def __init__(self, passages: dict[str, list[float]], query: list[float], temperature: float, k: int) -> None:
        self.passages, self.query, self.temperature = passages, query, temperature
        scores = {name: dot(query, vector) / temperature for name, vector in passages.items()}
        self.order = sorted(scores, key=lambda name: (-scores[name], name))
        self.log_z = log_sum(list(scores.values()))
        self.log_p = {name: score - self.log_z for name, score in scores.items()}
        self.head, self.tail = self.order[:k], self.order[k:]
        self.log_tail = log_sum([self.log_p[name] for name in self.tail])

    def expected(self, names: list[str]) -> list[float]:
        """E[z] under p restricted to `names`."""
        total = log_sum([self.log_p[name] for name in names])
        return mean([math.exp(self.log_p[name] - total) for name in names], [self.passages[name] for name in names])

    def completion(self, estimator: str, draws: list[str]) -> tuple[list[float], list[list[float]], list[float]]:
        """Log-probabilities and vectors of what the posterior is over, and E_p[z]."""
        log_probs = [self.log_p[name] for name in self.head]
        vectors = [self.passages[name] for name in self.head]
        if estimator == "TOP_K":
            total = log_sum(log_probs)
            return [value - total for value in log_probs], vectors, self.expected(self.head)
        if estimator == "EXACT_Z_NULL":
            log_probs, vectors = log_probs + [self.log_tail], vectors + [self.expected(self.tail)]
        if estimator == "EXACT_Z_TAIL":
            log_probs = log_probs + [self.log_tail - math.log(len(draws))] * len(draws)
            vectors = vectors + [self.passages[name] for name in draws]
        return log_probs, vectors, self.expected(self.order)

    def gradient(self, estimator: str, draws: list[str], likelihoods: list[float]) -> tuple[float, list[float]]:
        """J and dJ/dq."""
        log_probs, vectors, expected = self.completion(estimator, draws)
        joint = [a + b for a, b in zip(log_probs, likelihoods)]
        marginal = log_sum(joint)
        posterior = mean([math.exp(value - marginal) for value in joint], vectors)
        return marginal, [(a - b) / self.temperature for a, b in zip(posterior, expected)]

    def weights(self, estimator: str, draws: list[str], likelihoods: list[float]) -> list[float]:
        """Posterior less prior of each of the head: dJ/ds_i."""
        log_probs, _, _ = self.completion(estimator, draws)
        joint = [a + b for a, b in zip(log_probs, likelihoods)]
        marginal = log_sum(joint)
        return [math.exp(value - marginal) - math.exp(log_p) for value, log_p in zip(joint, log_probs)][:len(self.head)]

    def product(self, estimator: str, draws: list[str], gradients: list[float]) -> list[float]:
        """The Jacobian of the log-probabilities, transposed, times `gradients`."""
        _, vectors, expected = self.completion(estimator, draws)
        total = math.fsum(gradients)
        return [(a - total * b) / self.temperature for a, b in zip(mean(gradients, vectors), expected)]


def distance(a: list[float], b: list[float]) -> float:
    return math.dist(a, b) / max(math.hypot(*b), 1e-300)


class TrainingTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = ServerProcess()
        cls.client = ReflectionClient(cls.server.address)
        cls.fingerprint = cls.client.call("AdminService.GetServerInfo").encoders[0].fingerprint
        rng = random.Random(5)
        cls.vectors = {f"p{i:03d}": unit(rng) for i in range(COUNT)}
        cls.queries = [unit(rng) for _ in range(3)]
        cls.stores = []
        before = time.time()
        cls.make_store("training")
        cls.built = (before, time.time())

    @classmethod
    def tearDownClass(cls):
        cls.client.call("TrainingService.OpenSession", store="training")  # The server ends all the same.
        delete_stores_and_stop(cls.client, cls.server, cls.stores)

    @classmethod
    def matrix(cls, rows, kind="FLOAT32"):
        data = array.array("d" if kind == "FLOAT64" else "f", [value for row in rows for value in row]).tobytes()
        return cls.client.message("Matrix", rows=len(rows), cols=len(rows[0]) if rows else 0, data=data,
                                  type=cls.client.value("VectorType", "VECTOR_TYPE_" + kind))

    @classmethod
    def make_store(cls, store, names=None):
        cls.stores.append(store)
        names = list(cls.vectors) if names is None else names
        passages = [cls.client.message("Passage", id=name, text=f"text of {name}", metadata={
            "even": cls.client.message("MetadataValue", bool_value=int(name[1:]) % 2 == 0)}) for name in names]
        return cls.client.ingest({"store": store, "encoder_fingerprint": cls.fingerprint},
                                 [{"passages": passages, "vectors": cls.matrix([cls.vectors[name] for name in names])}])

    @staticmethod
    def rows(matrix):
        values = array.array("d" if matrix.type == 5 else "f", matrix.data)
        assert len(values) == matrix.rows * matrix.cols, (len(values), matrix.rows, matrix.cols)
        return [list(values[row * matrix.cols:(row + 1) * matrix.cols]) for row in range(matrix.rows)]

    def open(self, store="training", **fields) -> Any:
        opened = self.client.call("TrainingService.OpenSession", store=store, **fields)
        self.addCleanup(self.close_quietly, opened.session_id)
        return opened

    def close_quietly(self, session):
        try:
            self.client.call("TrainingService.CloseSession", session_id=session)
        except grpc.RpcError:
            pass

    def retrieve(self, session, kind="FLOAT64", estimator="EXACT_Z_NULL", queries=None, top_k=K, **fields):
        return self.client.call("TrainingService.Retrieve", session_id=session, top_k=top_k,
                                query_vectors=self.matrix(self.queries if queries is None else queries, kind),
                                estimator=self.client.value("Estimator", "ESTIMATOR_" + estimator), **fields)

    def backward(self, session, handle, **fields):
        fields.setdefault("vector_type", self.client.value("VectorType", "VECTOR_TYPE_FLOAT64"))
        return self.client.call("TrainingService.Backward", session_id=session, handle=handle, **fields)

    def fails(self, code, method, field=None, reason=None, **fields):
        with self.assertRaises(grpc.RpcError) as raised:
            self.client.call("TrainingService." + method, **fields)
        self.assertEqual(raised.exception.code(), code, raised.exception.details())
        info = error_info(raised.exception)
        if field is not None:
            self.assertEqual(info.metadata["field"], field, raised.exception.details())
        if reason is not None:
            self.assertEqual(info.reason, reason, raised.exception.details())
        return raised.exception.details()

    def metrics(self):
        with urllib.request.urlopen(f"http://{self.server.metrics_address}/metrics", timeout=10) as reply:
            return reply.read().decode()

    def await_metric(self, line):
        deadline = time.monotonic() + 60
        while line not in self.metrics().splitlines():
            self.assertLess(time.monotonic(), deadline, f"{line} did not come")
            time.sleep(0.05)

    def test_every_estimator_is_the_formula(self):
        session = self.open()
        self.assertEqual((session.passage_count, session.dim, session.encoder_fingerprint, session.lease_ms), (COUNT, DIM, self.fingerprint, 60000))
        self.assertRegex(session.session_id, "^[0-9a-f]{32}$")
        excluded = [["p001", "no-such-passage"], [], ["p004", "p004"]]
        even = {name: vector for name, vector in self.vectors.items() if int(name[1:]) % 2 == 0}
        cases = [("TOP_K", 0.05, K), ("EXACT_Z", 0.3, K), ("EXACT_Z_NULL", 0.05, K), ("EXACT_Z_NULL", 0.0, 1), ("EXACT_Z_TAIL", 0.2, K), ("FULL", 0.1, COUNT)]
        for estimator, temperature, k in cases:
            for kind, tolerance in (("FLOAT64", 1e-9), ("FLOAT32", 2e-4)):
                for passages, extra in ((self.vectors, {}), (even, {"filter": "even = true", "exclusions": [{"ids": ids} for ids in excluded]})):
                    with self.subTest(estimator=estimator, kind=kind, filtered=bool(extra)):
                        asked = time.time()
                        draw_count = 5 if estimator == "EXACT_Z_TAIL" else 0
                        reply = self.retrieve(session.session_id, kind, estimator, top_k=k, temperature=temperature, tail_samples=draw_count, seed=7,
                                              include_mean_vectors=True, include_vectors=k == K, **extra)
                        self.assertEqual((reply.generation, reply.revision), (session.generation, session.revision))
                        self.assertGreaterEqual(reply.staleness.age_ms, 1000 * (asked - self.built[1]) - 1)
                        self.assertLessEqual(reply.staleness.age_ms, 1000 * (time.time() - self.built[0]) + 1)
                        self.assertEqual(reply.staleness.drift_sample_count, 0)
                        rng = random.Random(3)
                        columns = k + draw_count + (estimator == "EXACT_Z_NULL")
                        likelihoods = [[rng.uniform(-6, 0) for _ in range(columns)] for _ in range(4)]
                        likelihoods[1][0] = -INF
                        row_query = [0, 2, 1, 2]
                        self.check(reply, estimator, kind, tolerance, passages, excluded if extra else [[]] * 3, temperature or 1.0, k,
                                   session.session_id, likelihoods, row_query)
        for name in ("certificate", "gradient_norm", "head_mass"):
            self.assertRegex(self.metrics(), r'\nloci_training_%s\{session="%s",store="training"\} [0-9.e+-]+\n' % (name, session.session_id[:8]))

    def check(self, reply, estimator, kind, tolerance, passages, excluded, temperature, k, session, likelihoods, row_query):
        backward = self.backward(session, reply.handle, log_likelihoods=self.matrix(likelihoods, "FLOAT64"), row_query=row_query, max_log_likelihood=0.0,
                                 include_passage_gradients=True)
        product = self.backward(session, reply.handle, grad_log_probs=self.matrix([[value if value > -INF else 0.0 for value in row] for row in likelihoods[:3]], "FLOAT64"))
        self.assertEqual(list(product.log_marginals), [])
        gradients, products = self.rows(backward.query_gradients), self.rows(product.query_gradients)
        passage_gradients, means = self.rows(backward.passage_gradients), self.rows(reply.mean_vectors)
        self.assertEqual(reply.mean_vectors.type, self.client.value("VectorType", "VECTOR_TYPE_" + kind))
        self.assertEqual((len(gradients), len(means), len(passage_gradients)), (3, 3, 3 * k))
        for q, result in enumerate(reply.results):
            world = World({name: vector for name, vector in passages.items() if name not in excluded[q]}, self.queries[q], temperature, k)
            ids, draws = [hit.id for hit in result.hits], [hit.id for hit in result.tail_hits]
            self.assertEqual(ids, world.head)
            self.assertTrue(set(draws) <= set(world.tail))
            log_probs, _, expected = world.completion(estimator, draws)
            self.assertEqual(len(result.log_probs), len(ids))
            for actual, wanted in zip(result.log_probs, log_probs):
                self.assertAlmostEqual(actual, wanted, delta=10 * tolerance)
            head = log_sum([world.log_p[name] for name in world.head])
            self.assertAlmostEqual(result.log_z, world.log_z + (head if estimator == "TOP_K" else 0), delta=10 * tolerance)
            if estimator == "TOP_K":
                self.assertTrue(math.isnan(result.log_null_prob))
            elif world.tail:
                self.assertAlmostEqual(result.log_null_prob, world.log_tail, delta=10 * tolerance)
                self.assertAlmostEqual(result.head_mass, math.exp(head), delta=tolerance)
            self.assertLess(distance(means[q], expected), max(tolerance, 1e-6 if kind == "FLOAT32" else 0))
            for hit in result.hits:
                if hit.HasField("vector"):
                    self.assertEqual(self.rows(hit.vector)[0], passages[hit.id])
            # Columns of hits that are missing, beside them the null or the draws.
            present = list(range(len(ids))) + list(range(k, len(likelihoods[0])))
            wanted, weights, truth = [0.0] * DIM, [0.0] * len(ids), [0.0] * DIM
            for row, of in enumerate(row_query):
                if of != q:
                    continue
                of_row = [likelihoods[row][column] for column in present]
                marginal, gradient = world.gradient(estimator, draws, of_row)
                self.assertAlmostEqual(backward.log_marginals[row], marginal, delta=10 * tolerance)
                wanted = [a + b for a, b in zip(wanted, gradient)]
                weights = [a + b for a, b in zip(weights, world.weights(estimator, draws, of_row))]
                # Had everything been read, the tail with a likelihood of 1, which max_log_likelihood allows.
                everything = World(world.passages, world.query, temperature, len(world.order))
                full = everything.gradient("FULL", [], of_row[:len(ids)] + [0.0] * len(world.tail))[1]
                truth = [a + b for a, b in zip(truth, full)]
            self.assertLess(distance(gradients[q], wanted), 10 * tolerance)
            error = math.dist(gradients[q], truth)
            self.assertLessEqual(error, backward.certificates[q] + 10 * tolerance * max(1.0, math.hypot(*truth)))
            self.assertEqual(backward.certificates[q] > 0, bool(world.tail))
            row = [likelihoods[q][column] for column in present]
            wanted = world.product(estimator, draws, [value if value > -INF else 0.0 for value in row])
            self.assertLess(distance(products[q], wanted), 10 * tolerance)
            # dJ/dz_i = (r_i - p_i) q / tau, and nothing where the hit is missing.
            for i in range(k):
                vector = passage_gradients[q * k + i]
                if i >= len(ids):
                    self.assertEqual(set(vector), {0.0})
                    continue
                self.assertLess(math.dist(vector, [weights[i] / temperature * value for value in self.queries[q]]), 10 * tolerance / temperature)

    def test_texts_go_through_the_sessions_encoder(self):
        session = self.open().session_id
        texts = ["which passage is it?", "Grüße aus 東京 🌍"]
        encoded = self.client.call("RetrievalService.Encode", texts=texts, role=self.client.value("TextRole", "TEXT_ROLE_QUERY"))
        by_text = self.client.call("TrainingService.Retrieve", session_id=session, query_texts=texts, top_k=K, include_text=True)
        by_vector = self.client.call("TrainingService.Retrieve", session_id=session, query_vectors=encoded.vectors, top_k=K, include_text=True)
        self.assertEqual(by_text.results, by_vector.results)
        self.assertEqual([usage.used_tokens for usage in by_text.usage], [usage.used_tokens for usage in encoded.usage])
        self.assertEqual(by_text.encoder_fingerprint, self.fingerprint)
        hit = by_text.results[0].hits[0]
        self.assertEqual(hit.passage.text, f"text of {hit.id}")
        for kind in ("FLOAT16", "BFLOAT16"):
            of_kind = self.client.call("RetrievalService.Encode", texts=texts, role=self.client.value("TextRole", "TEXT_ROLE_QUERY"),
                                       vector_type=self.client.value("VectorType", "VECTOR_TYPE_" + kind))
            rounded = self.client.call("TrainingService.Retrieve", session_id=session, query_vectors=of_kind.vectors, top_k=K)
            self.assertAlmostEqual(rounded.results[0].log_z, by_vector.results[0].log_z, places=2)

    def test_a_session_sees_one_view_whatever_is_written(self):
        first = self.make_store("view").generation
        session = self.open("view")
        request = {"estimator": "EXACT_Z_TAIL", "tail_samples": 4, "seed": 11, "include_text": True, "include_vectors": True, "include_mean_vectors": True}
        before = self.retrieve(session.session_id, **request)
        likelihoods = self.matrix([[-1.0 * column for column in range(K + 4)]] * 3, "FLOAT64")
        gradients = self.backward(session.session_id, before.handle, log_likelihoods=likelihoods)
        gone = before.results[0].hits[0].id
        changes = [
            lambda: self.client.call("AdminService.DeletePassages", store="view", ids=[gone]),
            lambda: self.client.call("AdminService.UpsertPassages", store="view", passages=[self.client.message("Passage", id="p000", text="other"),
                                                                                             self.client.message("Passage", id="new", text="new")]),
            lambda: self.client.call("AdminService.FoldStore", store="view"),
            lambda: self.make_store("view", ["p001", "p002"]),
            lambda: self.client.call("AdminService.DeleteGeneration", store="view", generation=first),
            lambda: self.client.call("AdminService.DeleteStore", store="view", confirm_name="view"),
        ]
        for change in changes:
            change()
            after = self.retrieve(session.session_id, **request)
            self.assertEqual(after.results, before.results)
            self.assertEqual((after.generation, after.revision, after.mean_vectors), (session.generation, session.revision, before.mean_vectors))
            again = self.backward(session.session_id, before.handle, log_likelihoods=likelihoods)
            self.assertEqual(again.query_gradients, gradients.query_gradients)
        self.assertIn('loci_training_leases{generation="%s",store="view"} 1' % first, self.metrics())
        self.client.call("TrainingService.CloseSession", session_id=session.session_id)
        self.fails(grpc.StatusCode.NOT_FOUND, "OpenSession", store="view")

    def test_what_is_leased_is_not_taken_away_to_activate_in_place(self):
        self.make_store("place", ["p001", "p002"])
        second = self.client.ingest({"store": "place", "no_activate": True, "encoder_fingerprint": self.fingerprint},
                                    [{"passages": [{"id": "p003", "text": "x"}], "vectors": self.matrix([self.vectors["p003"]])}]).generation
        session = self.open("place").session_id
        in_place = {"store": "place", "generation": second, "strategy": self.client.value("ActivationStrategy", "ACTIVATION_STRATEGY_IN_PLACE")}
        for dry_run in (True, False):
            with self.assertRaises(grpc.RpcError) as raised:
                self.client.call("AdminService.ActivateGeneration", dry_run=dry_run, **in_place)
            self.assertEqual(raised.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            info = error_info(raised.exception)
            self.assertEqual((info.reason, info.metadata["sessions"]), ("HELD", "1"), "at once: what serves was not taken away to see")
        plan = self.client.call("AdminService.PlanActivation", **in_place)
        self.assertFalse(plan.can_activate)
        self.assertTrue(any(blocker.startswith("HELD: ") for blocker in plan.blockers), plan.blockers)
        again = {**in_place, "generation": info.metadata["generation"]}
        self.assertEqual(self.client.call("AdminService.ActivateGeneration", **again).generation, again["generation"], "nothing is freed for what serves")
        self.client.call("TrainingService.CloseSession", session_id=session)
        self.assertEqual(self.client.call("AdminService.ActivateGeneration", **in_place).generation, second)

    def test_a_named_generation_is_leased_as_it_was_built(self):
        first = self.make_store("named").generation
        self.make_store("named", ["p001"])
        self.assertEqual((self.open("named").passage_count, self.open("named", generation=first).passage_count), (1, COUNT))
        self.fails(grpc.StatusCode.NOT_FOUND, "OpenSession", store="named", generation="no-such")

    def test_nothing_to_find_is_no_error(self):
        session = self.open().session_id
        reply = self.retrieve(session, "FLOAT32", filter='id = "no-such"')
        for result in reply.results:
            self.assertEqual((len(result.hits), result.log_z, result.log_null_prob), (0, -INF, -INF))
        gradients = self.backward(session, reply.handle, log_likelihoods=self.matrix([[-1.0] * (K + 1)] * 3, "FLOAT64"))
        self.assertEqual(set(sum(self.rows(gradients.query_gradients), [])), {0.0})
        self.assertEqual(list(gradients.log_marginals), [-INF] * 3)
        self.assertTrue(all(math.isnan(value) for value in gradients.certificates))

    def test_bad_input_names_its_field(self):
        invalid, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
        session, other = self.open().session_id, self.open().session_id
        good = {"session_id": session, "top_k": K, "query_vectors": self.matrix(self.queries)}
        reply = self.client.call("TrainingService.Retrieve", **good)
        for field, change in (
                ("query_vectors", {"query_vectors": self.matrix([row[:-1] for row in self.queries])}),
                ("query_vectors", {"query_vectors": self.matrix([[math.nan] * DIM])}),
                ("query_vectors", {"query_vectors": self.matrix([[INF] * DIM], "FLOAT64")}),
                ("query_vectors", {"query_vectors": None}),
                ("query_vectors", {"query_texts": ["both"]}),
                ("query_texts[0]", {"query_vectors": None, "query_texts": [""]}),
                ("top_k", {"top_k": 0}),
                ("top_k", {"estimator": 5, "top_k": COUNT - 1}),
                ("temperature", {"temperature": -0.5}),
                ("temperature", {"temperature": math.nan}),
                ("temperature", {"temperature": 1e-300}),
                ("tail_samples", {"estimator": 4}),
                ("tail_samples", {"tail_samples": 3}),
                ("estimator", {"estimator": 99}),
                ("exclusions", {"exclusions": [{"ids": ["p001"]}]}),
                ("filter", {"filter": "even ="}),
                ("options.nprobe", {"options": self.client.message("SearchOptions", nprobe=3)})):
            with self.subTest(field=field, change=list(change)):
                self.fails(invalid, "Retrieve", field, **{**good, **change})
        # 400 x 120 vectors of 1,536 bytes.
        many = self.matrix(self.queries[:1] * 400)
        self.fails(invalid, "Retrieve", "top_k", "REPLY_TOO_LARGE", session_id=session, top_k=COUNT, query_vectors=many, include_vectors=True)
        large = self.client.call("TrainingService.Retrieve", session_id=session, top_k=COUNT, query_vectors=many).handle
        self.fails(invalid, "Backward", "include_passage_gradients", "REPLY_TOO_LARGE", session_id=session, handle=large, vector_type=5,
                   include_passage_gradients=True, log_likelihoods=self.matrix([[0.0] * (COUNT + 1)] * 400))

        back = {"session_id": session, "handle": reply.handle, "log_likelihoods": self.matrix([[-1.0] * (K + 1)] * 3, "FLOAT64")}
        self.client.call("TrainingService.Backward", **back)
        rows = lambda value, count=3, columns=K + 1: self.matrix([[0.0] * columns] * (count - 1) + [[value] + [0.0] * (columns - 1)], "FLOAT64")
        for field, change in (
                ("log_likelihoods", {"log_likelihoods": rows(0.0, columns=K)}),
                ("log_likelihoods", {"log_likelihoods": rows(math.nan)}),
                ("log_likelihoods", {"log_likelihoods": rows(INF)}),
                ("log_likelihoods", {"log_likelihoods": None}),
                ("log_likelihoods", {"grad_log_probs": rows(0.0)}),
                ("grad_log_probs", {"log_likelihoods": None, "grad_log_probs": rows(-INF)}),
                ("row_query", {"row_query": [0, 1]}),
                ("row_query", {"row_query": [0, 1, 3]}),
                ("row_query", {"row_query": [0, 1, -1]}),
                ("max_log_likelihood", {"max_log_likelihood": math.nan}),
                ("vector_type", {"vector_type": self.client.value("VectorType", "VECTOR_TYPE_INT8")}),
                ("handle", {"handle": ""})):
            with self.subTest(field=field, change=list(change)):
                self.fails(invalid, "Backward", field, **{**back, **change})
        with self.assertRaises(grpc.RpcError) as raised:  # Rows that do not go with the queries.
            self.client.call("TrainingService.Backward", **{**back, "log_likelihoods": rows(0.0, 2)})
        self.assertEqual(raised.exception.code(), invalid)

        self.fails(missing, "Backward", reason="HANDLE_NOT_FOUND", **{**back, "handle": "h999"})
        self.fails(missing, "Backward", reason="HANDLE_NOT_FOUND", **{**back, "session_id": other})
        for method, request in (("Retrieve", good), ("Backward", back), ("RenewSession", {}), ("CloseSession", {})):
            self.fails(missing, method, reason="SESSION_NOT_FOUND", **{**request, "session_id": "0" * 32})
            self.fails(invalid, method, "session_id", **{**request, "session_id": ""})
        for lease_ms in (-1, 999, 3_600_001):
            self.fails(invalid, "OpenSession", "lease_ms", store="training", lease_ms=lease_ms)
            self.fails(invalid, "RenewSession", "lease_ms", session_id=session, lease_ms=lease_ms)
        self.fails(missing, "OpenSession", store="no-such-store")
        self.fails(invalid, "OpenSession", "store", store="../up")
        self.client.call("TrainingService.CloseSession", session_id=session)
        self.assertIn("was closed", self.fails(missing, "CloseSession", reason="SESSION_NOT_FOUND", session_id=session))
        self.fails(missing, "Backward", reason="SESSION_NOT_FOUND", **back)
        with self.assertRaises(grpc.RpcError) as raised:
            self.client.call("TrainingService.Retrieve", timeout=0.001, session_id=other, top_k=COUNT, query_vectors=many, include_text=True)
        self.assertEqual(raised.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)

    def test_the_lease_of_a_client_that_died_is_freed(self):
        generation = self.make_store("lease").generation
        dying = ReflectionClient(self.server.address, like=self.client)
        session = dying.call("TrainingService.OpenSession", store="lease", lease_ms=1000).session_id
        self.retrieve(session)
        renewed = self.client.call("TrainingService.RenewSession", session_id=session)
        self.assertEqual((renewed.lease_ms, renewed.generation), (1000, generation))
        text = self.metrics()
        for name in ("retrieved_entropy_nats", "retrieved_top_share", "head_mass", "staleness_seconds"):
            self.assertRegex(text, r'\nloci_training_%s\{session="%s",store="lease"\} \S+\n' % (name, session[:8]))
        self.assertNotIn(session, text, "who reads metrics is not to use sessions")
        dying.close()
        self.make_store("lease", ["p001"])
        deadline = time.monotonic() + 60
        while f'generation="{generation}",store="lease"' in self.metrics():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)
        self.await_metric("loci_generations_draining 0")
        self.assertRegex(self.metrics(), r"\nloci_training_leases_expired_total [1-9]\d*\n")
        self.assertIn("expired", self.fails(grpc.StatusCode.NOT_FOUND, "Retrieve", reason="SESSION_NOT_FOUND", session_id=session, top_k=1,
                                            query_vectors=self.matrix(self.queries)))

    def test_there_are_so_many_sessions_and_no_more(self):
        opened = []
        with self.assertRaises(grpc.RpcError) as raised:
            while len(opened) < 1000:
                opened.append(self.open(lease_ms=60_000).session_id)
        self.assertEqual(raised.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertEqual(error_info(raised.exception).reason, "OVERLOADED")
        self.assertGreater(int(dict(raised.exception.trailing_metadata())["grpc-retry-pushback-ms"]), 0)
        self.assertEqual(len(set(opened)), 256)
        self.client.call("TrainingService.CloseSession", session_id=opened[0])
        self.open()

    def test_a_client_that_cancels_is_not_worked_for(self):
        session = self.open().session_id
        method = self.client.channel.unary_unary("/loci.v1.TrainingService/Retrieve", lambda message: message.SerializeToString(), lambda data: data)
        request = self.client.message("RetrieveRequest", session_id=session, top_k=COUNT, query_vectors=self.matrix(self.queries[:1] * 1000), estimator=5,
                                      include_text=True)
        deadline = time.monotonic() + 60
        while not re.search(r'\nloci_requests_total\{code="CANCELLED",method="Retrieve"\} [1-9]', self.metrics()):
            self.assertLess(time.monotonic(), deadline)
            call = method.future(request, timeout=60)
            time.sleep(0.01)  # For it to be under way; where it is not, or is done, the next one is.
            call.cancel()
        self.retrieve(session)

    def test_a_handle_is_used_by_many_at_once(self):
        session = self.open().session_id
        reply = self.retrieve(session, "FLOAT32")
        likelihoods = self.matrix([[-0.5 * column for column in range(K + 1)]] * 3)
        wanted = self.backward(session, reply.handle, log_likelihoods=likelihoods).query_gradients
        narrow = self.client.call("TrainingService.Backward", session_id=session, handle=reply.handle, log_likelihoods=likelihoods).query_gradients
        self.assertEqual(narrow.type, self.client.value("VectorType", "VECTOR_TYPE_FLOAT32"))
        for wide, rounded in zip(self.rows(wanted), self.rows(narrow)):
            self.assertEqual(list(array.array("f", wide)), rounded)
        wrong = []

        def run():
            client = ReflectionClient(self.server.address, like=self.client)
            for _ in range(5):
                again = client.call("TrainingService.Retrieve", session_id=session, top_k=K, query_vectors=self.matrix(self.queries),
                                    estimator=self.client.value("Estimator", "ESTIMATOR_EXACT_Z_NULL"))
                for handle in (reply.handle, again.handle):
                    gradients = client.call("TrainingService.Backward", session_id=session, handle=handle, log_likelihoods=likelihoods, vector_type=5)
                    if gradients.query_gradients != wanted or again.results != reply.results:
                        wrong.append(handle)
            client.close()

        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])
        self.assertRegex(self.metrics(), r'\nloci_requests_total\{code="OK",method="Backward"\} [1-9]\d*\n')

    def test_health_and_reflection_tell_of_the_service(self):
        self.assertIn("loci.v1.TrainingService", self.client.database.get_services())
        self.assertEqual(self.client.health("loci.v1.TrainingService"), 1)
        self.assertRegex(self.metrics(), r'\nloci_request_duration_seconds_count\{method="OpenSession"\} ')


if __name__ == "__main__":
    main()
