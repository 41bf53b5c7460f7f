"""What the client does with failures, against a server of Python that fails as it is told."""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import socket
import threading
import time
import unittest
from concurrent import futures
from unittest import mock

import grpc
import numpy as np
from loci_server import main

import loci
from loci import _protocol

UNAVAILABLE, EXHAUSTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED
PATIENCE_S = 60


class FailingServer:
    """Answers each call with the next of `failures`, a function of the call's context that aborts it, and `replies` once there are none left."""

    def __init__(self):
        self.failures = []
        self.calls = []  # Names.
        self.remaining_s = []  # Of each call's deadline.
        self.replies = {}  # Fields, by name.
        handlers = []
        for service in _protocol.SERVICES:
            methods = {name.split(".")[1]: grpc.unary_unary_rpc_method_handler(self._handler(method), method.request.FromString,
                                                                            lambda message: message.SerializeToString())
                       for name, method in _protocol.METHODS.items() if name.startswith(service + ".")}
            handlers.append(grpc.method_handlers_generic_handler("loci.v1." + service, methods))
        self.server = grpc.server(futures.ThreadPoolExecutor(8), handlers=handlers)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def _handler(self, method):
        def handle(request, context):
            self.calls.append(method.name)
            self.remaining_s.append(context.time_remaining())
            if self.failures:
                self.failures.pop(0)(context)
            return method.response(**self.replies.get(method.name, {}))

        return handle


class DelayedServer:
    """A port of loopback that passes on to another one; what that answers comes later."""

    def __init__(self, port, delay_s):
        self.port = port
        self.delay_s = delay_s
        self.sockets = [socket.create_server(("127.0.0.1", 0))]

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self.sockets[0].getsockname()[1]

    def __exit__(self, *_):
        for one in self.sockets:
            one.close()

    def _accept(self):
        try:
            while True:
                near, _ = self.sockets[0].accept()
                far = socket.create_connection(("127.0.0.1", self.port))
                self.sockets += [near, far]
                threading.Thread(target=self._pass_on, args=(near, far, 0), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(far, near, self.delay_s), daemon=True).start()
        except OSError:
            pass  # Closed.

    def _pass_on(self, source, target, delay_s):
        try:
            while data := source.recv(1 << 16):
                time.sleep(delay_s)
                target.sendall(data)
        except OSError:
            pass


def within_patience(call):
    """What `call` answers or raises; an AssertionError where it does not return."""
    outcome = futures.Future()

    def run():
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return outcome.result(PATIENCE_S)
    except futures.TimeoutError:
        raise AssertionError(f"the call goes on after {PATIENCE_S} s") from None


def fails(code, message="no", trailers=(), reason="", metadata=None):
    def abort(context):
        details = [("grpc-status-details-bin", status(code, message, reason, metadata or {}))] if reason else []
        context.set_trailing_metadata([*trailers, *details])
        context.abort(code, message)

    return abort


def status(code, message, reason, metadata):
    result = _protocol.STATUS(code=code.value[0], message=message)
    info = _protocol.ERROR_INFO(reason=reason, domain="loci", metadata=metadata)
    result.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=info.SerializeToString())
    return result.SerializeToString()


def pushback(value):
    return [("grpc-retry-pushback-ms", str(value))]


class RetryTest(unittest.TestCase):
    def setUp(self):
        self.server = FailingServer()
        self.addCleanup(lambda: self.server.server.stop(None).wait())
        self.waits = []
        self.client = self.make_client()

    def make_client(self, **options):
        client = loci.Client(f"127.0.0.1:{self.server.port}", **options)
        client._transport._sleep = self.waits.append
        self.addCleanup(client.close)
        return client

    def answers_with(self, *failures):
        self.server.failures[:] = failures
        self.server.calls.clear()
        self.server.remaining_s.clear()
        self.waits.clear()

    def raises(self, code, call):
        with self.assertRaises(loci.LociError) as raised:
            call()
        self.assertEqual(raised.exception.code, code, raised.exception)
        return raised.exception

    def test_an_unavailable_server_is_asked_again_with_growing_waits(self):
        self.answers_with(*[fails(UNAVAILABLE)] * 5)
        self.client.list_stores()
        self.assertEqual(self.server.calls, ["ListStores"] * 6)
        self.assertEqual(len(self.waits), 5)
        for attempt, wait_s in enumerate(self.waits):
            self.assertGreaterEqual(wait_s, 0.05 * 2**attempt)
            self.assertLessEqual(wait_s, 0.1 * 2**attempt)

    def test_so_often_and_no_more(self):
        self.answers_with(*[fails(UNAVAILABLE, "draining")] * 20)
        error = self.raises(UNAVAILABLE, self.client.list_stores)
        self.assertEqual((error.attempts, len(self.server.calls), error.message, error.method), (8, 8, "draining", "AdminService.ListStores"))
        self.answers_with(*[fails(UNAVAILABLE)] * 20)
        self.raises(UNAVAILABLE, self.make_client(retry=loci.RetryPolicy(max_attempts=1)).list_stores)
        self.assertEqual((len(self.server.calls), self.waits), (1, []))

    def test_pushback_is_honoured(self):
        self.answers_with(fails(EXHAUSTED, trailers=pushback(7000)), fails(EXHAUSTED, trailers=pushback(0)))
        self.client.list_stores()
        self.assertEqual(self.waits[0], 7.0)
        self.assertGreaterEqual(self.waits[1], 0.1)
        self.assertEqual(len(self.server.calls), 3)

    def test_what_is_exhausted_for_good_is_not_asked_again(self):
        for trailers in ([], pushback(-1), pushback("soon")):
            with self.subTest(trailers=trailers):
                self.answers_with(fails(EXHAUSTED, trailers=trailers, reason="DISK"))
                self.assertEqual(self.raises(EXHAUSTED, self.client.list_stores).reason, "DISK")
                self.assertEqual(len(self.server.calls), 1)
        self.answers_with(fails(UNAVAILABLE, trailers=pushback(-1)))
        self.raises(UNAVAILABLE, self.client.list_stores)
        self.assertEqual(len(self.server.calls), 1)

    def test_what_may_have_been_done_is_not_done_twice(self):
        for call in (lambda: self.client.create_store("a"), lambda: self.client.delete_store("a", confirm_name="a"), lambda: self.client.rollback("a"),
                     lambda: self.client.activate("a", "g")):
            self.answers_with(fails(UNAVAILABLE))
            self.raises(UNAVAILABLE, call)
            self.assertEqual(len(self.server.calls), 1)
        # But what was refused was not done.
        for failure in (fails(EXHAUSTED, trailers=pushback(30)), fails(UNAVAILABLE, reason="SWITCHING", metadata={"retry_after_ms": "30"})):
            self.answers_with(failure)
            self.client.rollback("a")
            self.assertEqual(len(self.server.calls), 2)
        self.answers_with(fails(UNAVAILABLE), fails(UNAVAILABLE))
        self.client.upsert_passages("a", [loci.Passage("p", "text")])
        self.client.delete_passages("a", ["p"])
        self.assertEqual(self.server.calls, ["UpsertPassages"] * 3 + ["DeletePassages"])

    def test_other_errors_come_at_once(self):
        for code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ABORTED, grpc.StatusCode.INTERNAL,
                     grpc.StatusCode.DATA_LOSS, grpc.StatusCode.FAILED_PRECONDITION):
            self.answers_with(fails(code, trailers=pushback(5)))
            self.raises(code, self.client.list_stores)
            self.assertEqual(len(self.server.calls), 1)

    def test_the_time_limit_is_of_all_tries_together(self):
        self.answers_with(fails(EXHAUSTED, trailers=pushback(59_000)), fails(EXHAUSTED, trailers=pushback(3_600_000)))
        error = self.raises(EXHAUSTED, self.client.list_stores)
        self.assertEqual((error.attempts, self.waits), (2, [59.0]))  # The hour does not fit into the minute.
        for remaining_s in self.server.remaining_s:
            self.assertLessEqual(remaining_s, 1.05 * 60)
        self.answers_with(fails(EXHAUSTED, trailers=pushback(3_600_000)))
        self.client.list_stores(timeout_s=None)
        self.assertEqual(self.waits, [3600.0])
        self.answers_with(fails(UNAVAILABLE))
        self.raises(UNAVAILABLE, lambda: self.client.list_stores(timeout_s=0.04))
        self.assertEqual(self.waits, [])
        # Each try has what the ones before left.
        offset_s = [0.0]

        def wait(_):
            offset_s[0] += 20

        self.client._transport._sleep = wait
        self.answers_with(fails(UNAVAILABLE), fails(UNAVAILABLE))
        with mock.patch("loci._transport.time") as clock:
            clock.monotonic = lambda: time.monotonic() + offset_s[0]
            self.client.list_stores(timeout_s=50)
        self.assertEqual(len(self.server.remaining_s), 3)
        for remaining_s, limit_s in zip(self.server.remaining_s, (50, 30, 10)):
            self.assertLessEqual(remaining_s, 1.05 * limit_s)  # gRPC rounds up, by some per cent.

    def test_a_slow_server_is_not_waited_for(self):
        released = threading.Event()
        self.addCleanup(released.set)
        self.answers_with(lambda context: released.wait(60))
        error = self.raises(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: self.client.list_stores(timeout_s=0.3))
        self.assertEqual(error.attempts, 1)

    def test_errors_say_what_the_server_said(self):
        self.answers_with(fails(grpc.StatusCode.INVALID_ARGUMENT, "top_k is 0, the least is 1", reason="INVALID_FIELD", metadata={"field": "top_k"}))
        error = self.raises(grpc.StatusCode.INVALID_ARGUMENT, lambda: self.client.search("s", "q", 0))
        self.assertEqual((error.reason, error.metadata), ("INVALID_FIELD", {"field": "top_k"}))
        self.assertEqual(str(error), "RetrievalService.Search: INVALID_ARGUMENT (INVALID_FIELD): top_k is 0, the least is 1")
        copy = pickle.loads(pickle.dumps(error))  # As between processes of a training job.
        self.assertEqual((copy.code, copy.reason, copy.metadata, str(copy)), (error.code, error.reason, error.metadata, str(error)))
        # What is no google.rpc.Status, or has no ErrorInfo, is an error like any other.
        wrong = _protocol.STATUS(code=3)
        wrong.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff")
        wrong.details.add(type_url="type.googleapis.com/else", value=b"else")
        for details in (b"\xff\xff\xff", wrong.SerializeToString(), b""):
            self.answers_with(fails(grpc.StatusCode.INTERNAL, "why", trailers=[("grpc-status-details-bin", details)]))
            error = self.raises(grpc.StatusCode.INTERNAL, self.client.list_stores)
            self.assertEqual((error.message, error.reason, error.metadata), ("why", "", {}))

    def test_no_server_at_all(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # Nobody listens.
            client = loci.Client(f"127.0.0.1:{taken.getsockname()[1]}", retry=loci.RetryPolicy(max_attempts=3, initial_backoff_s=0.01))
            self.assertEqual(self.raises(UNAVAILABLE, client.server_info).attempts, 3)
            client.close()

    def test_an_upload_without_a_server_ends(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # Nobody listens.
            client = loci.Client(f"127.0.0.1:{taken.getsockname()[1]}", retry=loci.RetryPolicy(max_attempts=2, initial_backoff_s=0.001))
            self.addCleanup(client.close)
            for _ in range(20):
                for call in (lambda: client.ingest("s", [loci.Passage("a", "text")]), lambda: client.publish_encoder(b"weights", halves="BOTH")):
                    self.assertEqual(self.raises(UNAVAILABLE, lambda: within_patience(call)).attempts, 2)

    def upload_server(self, address, answer):
        """Serves Ingest by `answer`, a function of the requests and the context."""
        method = _protocol.METHODS["AdminService.Ingest"]
        server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[grpc.method_handlers_generic_handler("loci.v1.AdminService", {
            "Ingest": grpc.stream_unary_rpc_method_handler(answer, method.request.FromString, lambda message: message.SerializeToString())})])
        self.addCleanup(lambda: server.stop(None).wait())
        port = server.add_insecure_port(address)
        server.start()
        return port

    def test_an_upload_that_never_began_is_begun_again(self):
        received = []

        def ingest(requests, context):
            received.extend(passage.id for request in requests for passage in request.batch.passages)
            return _protocol.message("IngestResponse", done=True, accepted_count=len(received))

        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        client = loci.Client(f"127.0.0.1:{port}")
        self.addCleanup(client.close)
        waits = []

        def sleep(wait_s):
            waits.append(wait_s)
            if len(waits) == 2:
                self.upload_server(f"127.0.0.1:{port}", ingest)
            threading.Event().wait(wait_s)

        client._transport._sleep = sleep
        ids = [f"p{i}" for i in range(2500)]
        self.assertTrue(within_patience(lambda: client.ingest("s", (loci.Passage(name) for name in ids))).done)
        self.assertEqual(received, ids)
        self.assertGreaterEqual(len(waits), 2)

    def test_an_upload_that_began_is_not_begun_again(self):
        calls = []

        def ingest(requests, context):
            calls.append([next(requests), next(requests)])
            context.abort(UNAVAILABLE, "draining")

        client = loci.Client(f"127.0.0.1:{self.upload_server('127.0.0.1:0', ingest)}")
        self.addCleanup(client.close)
        client._transport._sleep = self.waits.append
        self.raises(UNAVAILABLE, lambda: within_patience(lambda: client.ingest("s", [loci.Passage("a")])))
        self.assertEqual((len(calls), self.waits), (1, []))

    def test_what_ends_while_passages_are_made_is_the_servers_error(self):
        def ingest(requests, context):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "store is bad")

        client = loci.Client(f"127.0.0.1:{self.upload_server('127.0.0.1:0', ingest)}")
        self.addCleanup(client.close)
        for i in range(50):
            with self.subTest(i=i):
                error = self.raises(grpc.StatusCode.INVALID_ARGUMENT, lambda: within_patience(lambda: client.ingest("s", [loci.Passage("a")] * 1500)))
                self.assertEqual(error.message, "store is bad")

    def test_a_slow_network_is_waited_for(self):
        with DelayedServer(self.server.port, delay_s=0.4) as port:
            with loci.Client(f"127.0.0.1:{port}", retry=loci.RetryPolicy(max_attempts=1)) as client:
                self.assertEqual(client.list_stores(), [])

    def test_a_closed_client_says_so(self):
        with self.make_client() as client:
            client.list_stores()
        with self.assertRaisesRegex(RuntimeError, "closed"):
            client.list_stores()
        client.close()

    def test_a_forked_child_is_told(self):
        self.client.list_stores()
        real = os.getpid
        os.getpid = lambda: real() + 1  # What a child sees; gRPC itself may not survive a real one here.
        try:
            with self.assertRaisesRegex(RuntimeError, "fork"):
                self.client.list_stores()
        finally:
            os.getpid = real
        self.client.list_stores()

    def test_a_lease_outlives_a_server_that_is_away(self):
        self.server.replies["OpenSession"] = {"session_id": "s", "lease_ms": 300, "dim": 4}
        session = self.client.open_session()
        self.server.failures[:] = [fails(UNAVAILABLE)] * 3
        deadline = time.monotonic() + 60
        while self.server.calls.count("RenewSession") < 6:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)
        self.assertIsNone(session.lost)
        self.server.failures[:] = [fails(grpc.StatusCode.NOT_FOUND, reason="SESSION_NOT_FOUND")]
        while session.lost is None:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)
        self.assertEqual(session.lost.reason, "SESSION_NOT_FOUND")
        session.close()
        session.close()

    def test_publish_encoder_sends_what_it_promises(self):
        weights = bytes(range(256)) * 10_000
        received = []

        def publish(requests, context):
            requests = list(requests)
            received.append((requests[0].header, b"".join(request.weights for request in requests[1:]), len(requests)))
            return _protocol.message("PublishResponse", fingerprint="a:b", live=True)

        method = _protocol.METHODS["TrainingService.PublishEncoder"]
        server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[grpc.method_handlers_generic_handler("loci.v1.TrainingService", {
            "PublishEncoder": grpc.stream_unary_rpc_method_handler(publish, method.request.FromString, lambda message: message.SerializeToString())})])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with loci.Client(f"127.0.0.1:{port}") as client:
            result = client.publish_encoder(weights, store="facts", halves="query", parent_fingerprint="p", job_name="run", metrics={"loss": 0.5},
                                            max_encoder_share=0.25, activate=False)
            self.assertEqual((result.fingerprint, result.live, result.job), ("a:b", True, ""))
            client.publish_encoder(store="facts", fingerprint="a:b")
            for wrong in ({}, {"weights": b"a", "fingerprint": "a:b"}, {"weights": b"a", "halves": "THIRD"}):
                with self.assertRaises(ValueError):
                    client.publish_encoder(**wrong)
        server.stop(None).wait()
        (header, sent, messages), (again, nothing, _) = received
        self.assertEqual((sent, messages), (weights, 1 + 3))
        self.assertEqual((header.size_bytes, header.sha256), (len(weights), hashlib.sha256(weights).hexdigest()))
        self.assertEqual((header.store, header.halves, header.parent_fingerprint, header.job_name, dict(header.metrics), header.max_encoder_share,
                          header.no_activate), ("facts", 1, "p", "run", {"loss": 0.5}, 0.25, True))
        self.assertEqual((again.fingerprint, again.halves, again.size_bytes, again.sha256, nothing), ("a:b", 0, 0, "", b""))

    def test_a_time_limit_is_a_number_of_seconds(self):
        for limit in (math.inf, 1e12, np.float32("inf"), 2**70, None, 60, np.float32(60), np.int64(60)):
            with self.subTest(limit=limit):
                self.answers_with()
                self.client.list_stores(timeout_s=limit)
                self.make_client(timeout_s=limit).list_stores()
                for remaining_s in self.server.remaining_s:
                    self.assertEqual(remaining_s is None or remaining_s > 1e6, limit != 60)
        self.answers_with()
        for limit, error in ((math.nan, ValueError), (0, ValueError), (-1, ValueError), (-math.inf, ValueError), ("5", TypeError), (True, TypeError)):
            for call in (lambda: self.client.list_stores(timeout_s=limit), lambda: self.make_client(timeout_s=limit),
                         lambda: self.client.ingest("s", [], timeout_s=limit), lambda: self.client.wait_for_job("j", timeout_s=limit)):
                with self.subTest(limit=limit), self.assertRaisesRegex(error, "timeout_s is"):
                    call()
        self.assertEqual(self.server.calls, [])

    def test_arguments_are_checked_before_anything_is_sent(self):
        for call in (lambda: self.client.encode(["a"], role="POET"), lambda: self.client.call("RetrievalService.Find"),
                     lambda: self.client.upsert_passages("s", [{"id": "a", "body": "b"}]), lambda: self.client.search("s", [[[1.0]]]),
                     lambda: loci.RetryPolicy(max_attempts=0)):
            with self.assertRaises(ValueError):
                call()
        search, upsert = self.client.search, lambda *passages: self.client.upsert_passages("s", passages)
        vector = np.zeros((1, 4), np.float32)
        for call, error, says in (
                (lambda: search("s", "q", 2.0), TypeError, "top_k is 2.0"), (lambda: search("s", "q", 2**40), ValueError, "top_k is 1099511627776"),
                (lambda: search("s", "q", nprobe=-2**40), ValueError, "nprobe is -1099511627776"), (lambda: search(7, "q"), TypeError, "store is 7"),
                (lambda: search("s", "\ud800"), ValueError, "queries is"), (lambda: search("s", "q", filter="\ud800"), ValueError, "filter is"),
                (lambda: search("s", []), ValueError, "queries is empty"), (lambda: search("s", None), TypeError, "queries is a NoneType"),
                (lambda: search("s", (text for text in ["a"])), TypeError, "queries is a generator"), (lambda: search("s", b"q"), TypeError, "queries is a bytes"),
                (lambda: search("s", {"a": 1}.keys()), TypeError, "queries is a dict_keys"), (lambda: search("s", ["a", 1]), ValueError, "queries has values"),
                (lambda: search("s", np.array(5.0)), ValueError, r"queries has shape \(\)"), (lambda: search("s", vector * 1j), ValueError, "complex"),
                (lambda: self.client.call("AdminService.ListJobs", limit="5"), TypeError, "limit is '5'"),
                (lambda: self.client.encode(["a", "\ud800"]), ValueError, "texts is"), (lambda: self.client.encode([5]), TypeError, "texts is"),
                (lambda: upsert("a text"), TypeError, "a passage is the str 'a text'"), (lambda: upsert(("a", "b")), TypeError, "a passage is the tuple"),
                (lambda: upsert(None), TypeError, "a passage is the NoneType"), (lambda: upsert(loci.Passage("a", "\ud800")), ValueError, "passage 'a': text is"),
                (lambda: upsert(loci.Passage("a", metadata=None)), TypeError, "passage 'a': metadata is a NoneType"),
                (lambda: upsert(loci.Passage("a", metadata={"x": 2**70})), ValueError, "passage 'a'"),
                (lambda: upsert(loci.Passage("a", None, metadata={"x": [5]})), TypeError, "passage 'a'"),
                (lambda: upsert(loci.Passage("a", metadata={"x": object()})), TypeError, "passage 'a': metadata 'x' is a object"),
                (lambda: upsert({"id": "a", "body": "b"}), ValueError, "no field 'body'"), (lambda: upsert({"id": "a", 5: "b"}), ValueError, "no field 5")):
            with self.subTest(says=says), self.assertRaisesRegex(error, says):
                call()
        for call in (lambda: self.client.get_passages("s", "p001"), lambda: self.client.upsert_passages("s", [loci.Passage("a", metadata={"x": None})])):
            with self.assertRaises(TypeError):
                call()
        self.assertEqual(self.server.calls, [])


if __name__ == "__main__":
    main()
