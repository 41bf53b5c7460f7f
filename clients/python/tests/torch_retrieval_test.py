"""Gradients and losses of loci.torch, from a server, against plain torch over all passages in float64."""

from __future__ import annotations

import math
import unittest

import grpc
import numpy as np
import torch
from loci_server import ReflectionClient, ServerProcess, delete_stores_and_stop, main

import loci
import loci.torch

COUNT = 40
SMALL = 6  # Queries vary in so many dimensions, or finite differences take long.
K = 5
DRAWS = 7
TEMPERATURE = 0.7
ESTIMATORS = ("TOP_K", "EXACT_Z", "EXACT_Z_NULL", "EXACT_Z_TAIL", "FULL")


class TorchRetrievalTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = ServerProcess()
        cls.client = loci.Client(cls.server.address)
        encoder = cls.client.server_info().encoders[0]
        generator = torch.Generator().manual_seed(3)
        cls.dim = encoder.dim
        cls.vectors = torch.zeros(COUNT, cls.dim)
        cls.vectors[:, :SMALL] = torch.randn(COUNT, SMALL, generator=generator)
        cls.queries = torch.randn(3, SMALL, generator=generator, dtype=torch.float64)
        cls.stores = []
        for store, count in (("torch", COUNT), ("few", 3)):
            cls.stores.append(store)
            cls.client.ingest(store, [loci.Passage(f"p{i:03d}", f"text {i}", metadata={"number": i}) for i in range(count)],
                              vectors=cls.vectors[:count].numpy(), encoder_fingerprint=encoder.fingerprint)
        cls.session = cls.client.open_session("torch")

    @classmethod
    def tearDownClass(cls):
        cls.session.close()
        cls.client.close()
        delete_stores_and_stop(ReflectionClient(cls.server.address), cls.server, cls.stores)

    def setUp(self):
        torch.set_num_threads(1)  # The server has the machine's cores.
        torch.manual_seed(11)

    def widened(self, q):
        return torch.cat([q, q.new_zeros(q.shape[0], self.dim - SMALL)], 1)

    def leaf(self, dtype=torch.float64):
        return self.queries.to(dtype).clone().requires_grad_()

    def retrieve(self, q, estimator="EXACT_Z_NULL", k=None, store=None, **options):
        k = (COUNT if estimator == "FULL" else K) if k is None else k
        return loci.torch.retrieve(self.widened(q), store or self.session, k, estimator=estimator, temperature=TEMPERATURE,
                                   **{"tail_samples": DRAWS if estimator == "EXACT_Z_TAIL" else None, **options})

    def expected_weights(self, q, vectors, found):
        """What log_weights should be, by autograd over all passages: `vectors` is [COUNT, SMALL]."""
        log_p = torch.log_softmax(q @ vectors.t() / TEMPERATURE, 1)
        head = torch.tensor([[int(name[1:]) for name in names] for names in found.ids])
        log_head = log_p.gather(1, head)
        if found.estimator == "TOP_K":
            return log_head - torch.logsumexp(log_head, 1, keepdim=True)
        tail = torch.logsumexp(log_p.scatter(1, head, -math.inf), 1, keepdim=True) if head.shape[1] < COUNT else None
        if found.estimator == "EXACT_Z_NULL":
            return torch.cat([log_head, tail], 1)
        if found.estimator == "EXACT_Z_TAIL":
            log_draw = log_p.gather(1, torch.tensor([[int(name[1:]) for name in names] for names in found.tail_ids]))
            # (1 - P_T) / m, with the gradient of p_j / pi_j where pi is held.
            return torch.cat([log_head, tail.detach() - math.log(DRAWS) + log_draw - log_draw.detach()], 1)
        return log_head

    def close(self, got, wanted, tolerance=1e-9):
        self.assertEqual(got.shape, wanted.shape)
        error = float((got.detach().double() - wanted.detach().double()).norm() / wanted.detach().double().norm().clamp(min=1e-300))
        self.assertLess(error, tolerance)

    def test_gradcheck(self):
        for estimator in ("TOP_K", "EXACT_Z", "EXACT_Z_NULL", "FULL"):  # Draws change with the query: EXACT_Z_TAIL stands below.
            with self.subTest(estimator=estimator):
                self.assertTrue(torch.autograd.gradcheck(lambda q: self.retrieve(q, estimator).log_weights, (self.leaf()[:2].detach().requires_grad_(),)))

    def test_gradcheck_of_the_tail_with_its_proposal_held(self):
        q = self.leaf()
        found = self.retrieve(q, "EXACT_Z_TAIL", seed=5)
        likelihoods = torch.randn(3, K + DRAWS, dtype=torch.float64)
        loci.torch.rag_sequence_loss(found, likelihoods).backward()
        vectors = self.vectors[:, :SMALL].double()
        head = torch.tensor([[int(name[1:]) for name in names] for names in found.ids])
        draws = torch.tensor([[int(name[1:]) for name in names] for names in found.tail_ids])

        def log_p(at):
            return torch.log_softmax(at @ vectors.t() / TEMPERATURE, 1)

        held = (log_p(q) - found.log_null_prob[:, None]).gather(1, draws).detach()

        def loss(at):
            weights = torch.cat([log_p(at).gather(1, head), log_p(at).gather(1, draws) - held - math.log(DRAWS)], 1)
            return -torch.logsumexp(weights + likelihoods, 1).mean()

        step = 1e-6
        differences = torch.zeros_like(self.queries)
        for row in range(3):
            for column in range(SMALL):
                change = torch.zeros_like(self.queries)
                change[row, column] = step
                differences[row, column] = (loss(self.queries + change) - loss(self.queries - change)) / (2 * step)
        self.close(q.grad, differences, 1e-6)

    def test_every_estimator_is_what_autograd_over_all_passages_says(self):
        for estimator in ESTIMATORS:
            with self.subTest(estimator=estimator):
                q, reference_q = self.leaf(), self.leaf()
                vectors = self.vectors[:, :SMALL].double().requires_grad_()
                found = self.retrieve(q, estimator, passage_gradients=True, include_mean_vectors=True, include_text=True)
                wanted = self.expected_weights(reference_q, vectors, found)
                self.close(found.log_weights, wanted)
                upstream = torch.randn_like(wanted)
                found.log_weights.backward(upstream)
                wanted.backward(upstream)
                self.close(q.grad, reference_q.grad)
                head = torch.tensor([[int(name[1:]) for name in names] for names in found.ids])
                # Every query has its own copy of the passage; those of all queries add up to autograd's where it is of all heads.
                total = torch.zeros(COUNT, SMALL, dtype=torch.float64).index_add(0, head.flatten(), found.vectors.grad[:, :, :SMALL].reshape(-1, SMALL))
                separately = torch.zeros_like(total)
                for row in range(3):
                    z = self.vectors[:, :SMALL].double().requires_grad_()
                    self.expected_weights(self.queries, z, found)[row].backward(upstream[row])
                    separately[head[row]] += z.grad[head[row]]
                self.close(total, separately)
                self.close(found.vectors[:, :, :SMALL], self.vectors[head][:, :, :SMALL], 1e-12)
                self.assertEqual(found.passages[0][0].metadata["number"], int(head[0, 0]))
                self.assertTrue(found.found.all())
                self.assertEqual((found.log_probs.shape, found.staleness.drift_sample_count), (head.shape, 0))
                if estimator not in ("TOP_K",):
                    p = torch.softmax(self.queries @ self.vectors[:, :SMALL].double().t() / TEMPERATURE, 1)
                    self.close(found.mean_vectors[:, :SMALL], p @ self.vectors[:, :SMALL].double())
                    self.close(found.head_mass, p.gather(1, head).sum(1))

    def test_null_and_tail_are_there_by_name(self):
        q = self.leaf()
        found = self.retrieve(q, "EXACT_Z_NULL")
        self.close(torch.logsumexp(torch.cat([found.log_probs, found.log_null_prob[:, None]], 1), 1).exp(), torch.ones(3))
        (gradient,) = torch.autograd.grad(found.log_null_prob.sum(), q, retain_graph=True)
        self.assertGreater(float(gradient.norm()), 0)
        self.assertIsNone(found.log_tail_weights)
        found = self.retrieve(q, "EXACT_Z_TAIL")
        self.assertEqual(found.log_tail_weights.shape, (3, DRAWS))
        self.close(found.log_tail_weights.exp().sum(1), found.log_null_prob.exp())
        self.assertFalse(found.log_null_prob.requires_grad or found.log_z.requires_grad)
        self.assertTrue(torch.isnan(self.retrieve(q, "TOP_K").log_null_prob).all())

    def test_draws_follow_torchs_seed(self):
        draw = lambda **options: self.retrieve(self.leaf(), "EXACT_Z_TAIL", tail_samples=50, **options).tail_ids
        torch.manual_seed(1)
        first, second = draw(), draw()
        torch.manual_seed(1)
        self.assertEqual((draw(), draw()), (first, second))
        self.assertNotEqual(first, second)
        self.assertEqual(draw(seed=9), draw(seed=9))

    def test_narrow_queries(self):
        wide = self.leaf()
        likelihoods = torch.randn(3, K + 1, dtype=torch.float64)
        loci.torch.rag_sequence_loss(self.retrieve(wide), likelihoods).backward()
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 5e-2)):
            narrow = self.leaf(dtype)
            found = self.retrieve(narrow)
            self.assertEqual(found.log_probs.dtype, torch.float32)
            loci.torch.rag_sequence_loss(found, likelihoods.float()).backward()
            self.assertEqual(narrow.grad.dtype, dtype)
            self.close(narrow.grad, wide.grad, tolerance)
        # Gradients that float32 could hold, and products of them on the way that it could not.
        for scale in (1e-37, 1e37):
            narrow = self.leaf(torch.float32)
            (loci.torch.rag_sequence_loss(self.retrieve(narrow), likelihoods.float()) * scale).backward()
            self.close(narrow.grad.double() / scale, wide.grad, 1e-4)

    @unittest.skipUnless(torch.cuda.is_available(), "no CUDA device")
    def test_queries_on_a_gpu(self):
        q, on_gpu = self.leaf(), self.queries.cuda().requires_grad_()
        likelihoods = torch.randn(3, K + 1, dtype=torch.float64)
        loci.torch.rag_sequence_loss(self.retrieve(q), likelihoods).backward()
        found = self.retrieve(on_gpu, passage_gradients=True)
        loci.torch.rag_sequence_loss(found, likelihoods.cuda()).backward()
        self.close(on_gpu.grad.cpu(), q.grad)
        self.assertTrue(found.vectors.grad.is_cuda and found.found.is_cuda)

    def test_a_query_without_gradient_asks_for_none(self):
        found = self.retrieve(self.queries)
        self.assertFalse(found.log_weights.requires_grad)
        with torch.no_grad():
            self.assertFalse(self.retrieve(self.leaf()).log_weights.requires_grad)

    def test_a_client_and_a_stores_name_will_do(self):
        found = self.retrieve(self.leaf(), store=(self.client, "torch"))
        again = self.retrieve(self.leaf(), store=(self.client, "torch"), filter="number < 10", exact=True)
        self.assertIs(found.session, again.session)
        self.assertTrue(all(int(name[1:]) < 10 for names in again.ids for name in names))

    def test_the_clients_session_is_opened_again_where_the_server_lost_it(self):
        first = self.retrieve(self.queries, store=(self.client, "torch")).session
        self.client.call("TrainingService.CloseSession", session_id=first.session_id)  # As by a restart: nobody here knows.
        found = self.retrieve(self.queries, store=(self.client, "torch"))
        self.assertIsNot(found.session, first)
        self.assertEqual(first.lost.reason, "SESSION_NOT_FOUND")
        self.assertIs(self.retrieve(self.queries, store=(self.client, "torch")).session, found.session)
        session = self.client.open_session("torch")
        self.client.call("TrainingService.CloseSession", session_id=session.session_id)
        with self.assertRaises(loci.LociError):  # One that the caller opened is the caller's.
            self.retrieve(self.queries, store=session)

    def test_a_temperature_is_no_parameter(self):
        retrieve = lambda temperature: loci.torch.retrieve(self.widened(self.queries), self.session, K, temperature=temperature)
        with self.assertRaisesRegex(ValueError, "divide q"):
            retrieve(torch.tensor(TEMPERATURE, requires_grad=True))
        with self.assertRaisesRegex(ValueError, "temperature is 0"):
            retrieve(0.0)
        found = retrieve(torch.tensor(TEMPERATURE, dtype=torch.float64))
        self.assertTrue(torch.equal(found.log_weights, self.retrieve(self.queries).log_weights))

    def test_exclusions_are_lists_of_ids(self):
        for exclusions in (["p000", "p001", "p002"], "p00", ["p000", None, None]):
            with self.assertRaisesRegex(TypeError, "exclusions"):
                self.retrieve(self.queries, exclusions=exclusions)
        q = self.leaf()
        found = self.retrieve(q, k=COUNT, exclusions=[["p000"], None, iter(["p001", "p002"])])
        self.assertEqual(found.found.sum(1).tolist(), [COUNT - 1, COUNT, COUNT - 2])
        found.log_probs[found.found].sum().backward()

    def test_what_is_missing_has_no_gradient_and_makes_no_nan(self):
        tokens = 4
        mask = torch.tensor([[True, True, False, False]] * 2 + [[True] * 4])
        for estimator, extra in (("TOP_K", 0), ("EXACT_Z", 0), ("EXACT_Z_NULL", 1), ("EXACT_Z_TAIL", DRAWS), ("FULL", 0)):
            # Three passages; the second query may find one of them, the third none.
            exclusions = [[], ["p000", "p002"], ["p000", "p001", "p002"]]
            make = lambda q: self.retrieve(q, estimator, k=K, store=(self.client, "few"), exclusions=exclusions)
            for name, loss in (
                    ("rag_sequence", lambda found: loci.torch.rag_sequence_loss(found, torch.zeros(3, K + extra, dtype=torch.float64))),
                    ("nan of what is missing", lambda found: loci.torch.rag_sequence_loss(
                        found, torch.where(torch.isneginf(found.log_weights), math.nan, 0.0).double())),
                    ("unlikely", lambda found: loci.torch.rag_sequence_loss(found, torch.full((3, K + extra), -math.inf, dtype=torch.float64))),
                    ("rag_token", lambda found: loci.torch.rag_token_loss(found, torch.zeros(3, K + extra, tokens, dtype=torch.float64), mask)),
                    ("realm", lambda found: loci.torch.realm_loss(found, torch.zeros(3, K + extra, tokens, dtype=torch.float64), mask)),
                    ("emdr2", lambda found: loci.torch.emdr2_loss(found, torch.zeros(3, K + extra, dtype=torch.float64))),
                    ("entropy", lambda found: -(found.log_probs.exp() * found.log_probs)[found.found].sum())):
                with self.subTest(estimator=estimator, loss=name):
                    q = self.leaf()
                    found = make(q)
                    value = loss(found)
                    value.backward()
                    self.assertFalse(torch.isnan(value))
                    self.assertTrue(torch.isfinite(q.grad).all(), q.grad)
                    self.assertTrue((q.grad[2] == 0).all())
            self.assertEqual(found.found.sum(1).tolist(), [3, 1, 0])
            self.assertTrue(torch.isneginf(found.log_probs[~found.found]).all())
            self.assertTrue(torch.isfinite(found.log_probs[found.found]).all())
            q = self.leaf()
            found = make(q)
            (found.log_probs.exp() * found.log_probs).sum().backward()  # 0 times -inf: the value is NaN, and says so; the gradient is not.
            self.assertTrue(torch.isfinite(q.grad).all())

    def test_what_overflowed_is_seen(self):
        q = self.leaf()
        upstream = torch.ones(3, K + 1, dtype=torch.float64)
        upstream[1, 2] = math.inf
        self.retrieve(q).log_weights.backward(upstream)
        self.assertEqual(torch.isnan(q.grad).any(1).tolist(), [False, True, False])

    def test_a_handle_that_the_server_dropped_is_made_again(self):
        q, reference = self.leaf(), self.leaf()
        likelihoods = torch.randn(3, K + DRAWS, dtype=torch.float64)
        loci.torch.rag_sequence_loss(self.retrieve(reference, "EXACT_Z_TAIL", seed=3), likelihoods).backward()
        found = self.retrieve(q, "EXACT_Z_TAIL", seed=3)
        for _ in range(70):
            self.retrieve(self.queries)
        with self.assertRaises(loci.LociError) as raised:
            self.session.backward(found.handle, np.zeros((3, K + DRAWS)))
        self.assertEqual(raised.exception.reason, "HANDLE_NOT_FOUND")
        loci.torch.rag_sequence_loss(found, likelihoods).backward()
        self.assertTrue(torch.equal(q.grad, reference.grad))

    def test_a_session_that_ended_is_an_error_of_the_backward_pass(self):
        session = self.client.open_session("torch")
        found = self.retrieve(self.leaf(), store=session)
        session.close()
        with self.assertRaises(loci.LociError) as raised:
            found.log_weights.sum().backward()
        self.assertEqual((raised.exception.code, raised.exception.reason), (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"))

    def test_arguments(self):
        for call in (lambda: self.retrieve(self.queries, "SOME"), lambda: loci.torch.retrieve(self.queries[0], self.session, K),
                     lambda: loci.torch.retrieve(torch.ones(2, 2, dtype=torch.int64), self.session, K)):
            with self.assertRaises(ValueError):
                call()
        q = self.widened(self.queries)
        for call, error, says in ((lambda: loci.torch.retrieve(q.numpy(), self.session, K), TypeError, "q is a ndarray"),
                                  (lambda: loci.torch.retrieve(q, "torch", K), TypeError, r"store is a str, not a Session or \(Client, str\)"),
                                  (lambda: loci.torch.retrieve(q, self.client, K), TypeError, "store is a Client, not a Session"),
                                  (lambda: loci.torch.retrieve(q, (self.client, 5), K), TypeError, "store is a tuple"),
                                  (lambda: loci.torch.retrieve(q, self.session, K, estimator=None), ValueError, "estimator is 'NONE'"),
                                  (lambda: loci.torch.retrieve(q, self.session, 2.0), TypeError, "top_k is 2.0"),
                                  (lambda: loci.torch.retrieve(q, self.session, K, seed=-1), ValueError, "seed is -1"),
                                  (lambda: self.session.retrieve(q.clone().requires_grad_(), K), TypeError, "queries can't be made an array.*detach"),
                                  (lambda: self.session.retrieve(q.bfloat16(), K), TypeError, "queries can't be made an array.*BFloat16"),
                                  (lambda: self.client.ingest("torch", [loci.Passage("a")], vectors=q[:1].clone().requires_grad_()), TypeError, "vectors can't be")):
            with self.subTest(says=says), self.assertRaisesRegex(error, says):
                call()
        found = self.retrieve(self.queries)
        with self.assertRaisesRegex(ValueError, "null passage's last"):
            loci.torch.rag_sequence_loss(found, torch.zeros(3, K))
        with self.assertRaises(ValueError):
            loci.torch.rag_sequence_loss(found, torch.zeros(3, K + 1, 2))
        with self.assertRaises(ValueError):
            loci.torch.realm_loss(found, torch.zeros(3, K + 1))
        with self.assertRaisesRegex(ValueError, "token_mask"):
            loci.torch.realm_loss(found, torch.zeros(3, K + 1, 2), torch.ones(3, 2))
        with self.assertRaises(loci.LociError):
            self.retrieve(self.queries, "FULL", k=K)

    # Losses at k = N against the full softmax, with and without the columns that then have no mass.

    def full(self, estimator, loss, reference, shape):
        """`loss` of what was retrieved and likelihoods by rank, `reference` of log p and likelihoods by passage."""
        by_passage = torch.randn(3, COUNT, *shape, dtype=torch.float64)
        extra = {"EXACT_Z_NULL": 1, "EXACT_Z_TAIL": DRAWS}.get(estimator, 0)
        q, reference_q = self.leaf(), self.leaf()
        given, reference_given = by_passage.clone().requires_grad_(), by_passage.clone().requires_grad_()
        found = self.retrieve(q, estimator, k=COUNT)
        order = torch.tensor([[int(name[1:]) for name in names] for names in found.ids])
        ranked = given.gather(1, order.reshape(3, COUNT, *[1] * len(shape)).expand_as(given))
        ranked = torch.cat([ranked, torch.zeros(3, extra, *shape, dtype=torch.float64)], 1)
        got = loss(found, ranked)
        wanted = reference(torch.log_softmax(reference_q @ self.vectors[:, :SMALL].double().t() / TEMPERATURE, 1), reference_given)
        self.close(got, wanted)
        got.backward()
        wanted.backward()
        self.close(q.grad, reference_q.grad)
        if reference_given.grad is None:
            self.assertIsNone(given.grad)
        else:
            self.close(given.grad, reference_given.grad)

    def test_losses_are_those_of_the_full_softmax(self):
        tokens = 4
        mask = torch.tensor([[True, True, False, True], [True, False, False, False], [True, True, True, True]])
        token_marginals = lambda log_p, l: torch.logsumexp(log_p[:, :, None] + l, 1)
        reader = torch.randn(3, dtype=torch.float64)
        for estimator in ESTIMATORS:
            for name, loss, reference, shape in (
                    ("rag_sequence", loci.torch.rag_sequence_loss, lambda log_p, l: -torch.logsumexp(log_p + l, 1).mean(), ()),
                    ("rag_token", lambda found, l: loci.torch.rag_token_loss(found, l, mask),
                     lambda log_p, l: -(token_marginals(log_p, l) * mask).sum(1).mean(), (tokens,)),
                    ("rag_token of all", loci.torch.rag_token_loss, lambda log_p, l: -token_marginals(log_p, l).sum(1).mean(), (tokens,)),
                    ("realm", lambda found, l: loci.torch.realm_loss(found, l, mask), lambda log_p, l: -token_marginals(log_p, l)[mask].mean(), (tokens,)),
                    ("emdr2", lambda found, l: loci.torch.emdr2_loss(found, l, reader),
                     lambda log_p, l: -(reader + torch.logsumexp(log_p + l.detach(), 1)).mean(), ())):
                with self.subTest(estimator=estimator, loss=name):
                    self.full(estimator, loss, reference, shape)

    def test_the_null_passage_counts_in_a_loss(self):
        q, reference_q = self.leaf(), self.leaf()
        likelihoods = torch.randn(3, K + 1, dtype=torch.float64)
        found = self.retrieve(q)
        loss = loci.torch.rag_sequence_loss(found, likelihoods)
        wanted = -torch.logsumexp(self.expected_weights(reference_q, self.vectors[:, :SMALL].double(), found) + likelihoods, 1).mean()
        self.close(loss, wanted)
        loss.backward()
        wanted.backward()
        self.close(q.grad, reference_q.grad)
        # As the server's own gradient of J, which takes the likelihoods.
        gradients = self.session.backward(found.handle, likelihoods.numpy())
        self.close(q.grad, -torch.from_numpy(gradients.query_gradients[:, :SMALL]) / 3)

    def test_what_a_mask_leaves_out_may_be_anything(self):
        mask = torch.tensor([[True, False]] * 3)
        for loss in (loci.torch.realm_loss, loci.torch.rag_token_loss):
            gradients = []
            for padding in (0.0, math.nan):
                q = self.leaf()
                likelihoods = torch.zeros(3, K + 1, 2, dtype=torch.float64)
                likelihoods[:, 0, 0] = 2.0
                likelihoods[:, :, 1] = padding
                loss(self.retrieve(q), likelihoods, mask).backward()
                gradients.append(q.grad)
            self.assertTrue(torch.equal(*gradients))
            self.assertGreater(float(gradients[0].norm()), 0)

    def test_without_masked_tokens_there_is_no_loss(self):
        found = self.retrieve(self.leaf())
        loss = loci.torch.realm_loss(found, torch.full((3, K + 1, 2), math.nan, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.bool))
        loss.backward()
        self.assertEqual(loss.item(), 0.0)

    def test_contrastive_loss(self):
        batch, each = 4, 2
        q, positives = (torch.randn(batch, SMALL, dtype=torch.float64, requires_grad=True) for _ in range(2))
        hard = torch.randn(batch, each, SMALL, dtype=torch.float64, requires_grad=True)
        positive_ids = ["a", "b", "a", "d"]  # The third query's positive is the first's.
        negative_ids = [["x", "b"], ["y", ""], ["a", "z"], ["x", "y"]]
        for use_hard in (False, True):
            for in_batch in (False, True):
                for use_ids in (False, True):
                    names = [("p", i) for i in range(batch)] + [("n", i, j) for i in range(batch) for j in range(each)] * use_hard

                    def label(name):
                        return positive_ids[name[1]] if name[0] == "p" else negative_ids[name[1]][name[2]]

                    wanted = torch.zeros((), dtype=torch.float64)
                    for i in range(batch):
                        terms = []
                        for name in names:
                            if name != ("p", i) and ((not in_batch and name[1] != i) or (use_ids and label(name) in (positive_ids[i], ""))):
                                continue
                            z = positives[name[1]] if name[0] == "p" else hard[name[1], name[2]]
                            terms.append((q[i] @ z) / TEMPERATURE)
                        wanted = wanted - ((q[i] @ positives[i]) / TEMPERATURE - torch.logsumexp(torch.stack(terms), 0)) / batch
                    got = loci.torch.contrastive_loss(
                        q, positives, hard if use_hard else None, temperature=TEMPERATURE, in_batch=in_batch,
                        positive_ids=positive_ids if use_ids else None, negative_ids=negative_ids if use_ids and use_hard else None)
                    with self.subTest(hard=use_hard, in_batch=in_batch, ids=use_ids):
                        self.close(got, wanted, 1e-12 if in_batch or use_hard else 1e-6)
                        leaves = [q, positives] + [hard] * use_hard
                        for a, b in zip(torch.autograd.grad(got, leaves), torch.autograd.grad(wanted, leaves)):
                            self.assertLess(float((a - b).abs().max()), 1e-12)
        with self.assertRaises(ValueError):
            loci.torch.contrastive_loss(q, positives[:2])
        with self.assertRaises(ValueError):
            loci.torch.contrastive_loss(q, positives, hard, positive_ids=positive_ids, negative_ids=[["x"]] * batch)

    def test_descent_finds_what_the_reader_wants(self):
        q = (0.1 * torch.randn(1, SMALL)).requires_grad_()
        wanted = "p007"
        optimizer = torch.optim.Adam([q], 0.1)
        probabilities = []
        for _ in range(40):
            found = self.retrieve(q, "EXACT_Z_TAIL", tail_samples=COUNT)
            ids = found.ids[0] + found.tail_ids[0]
            loss = loci.torch.rag_sequence_loss(found, torch.tensor([[0.0 if name == wanted else -9.0 for name in ids]]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            probabilities.append(float(torch.softmax(q.detach() @ self.vectors[:, :SMALL].t() / TEMPERATURE, 1)[0, int(wanted[1:])]))
        self.assertGreater(probabilities[-1], 10 * probabilities[0])


if __name__ == "__main__":
    main()
