"""Calls over a channel: deadlines, retries, errors."""

from __future__ import annotations

import dataclasses
import numbers
import os
import random
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, Callable

import grpc
import numpy as np

from . import _protocol
from .errors import LociError, error_of, trailers_of

# Messages of the server have at most 64 MiB; what is sent may be more, and is refused by it with its limit.
_MAX_RECEIVED_BYTES = 64 << 20

_MAX_TIMEOUT_S = 1e9  # 30 years; gRPC counts nanoseconds in 64 bits.

# What may be done twice: a call whose connection broke may have been carried out. The others are only repeated where the server refused them.
_REPEATABLE = frozenset("""
    Encode Search Answer
    GetStore ListStores UpdateStore UpsertPassages DeletePassages GetPassages ListGenerations PinGeneration PlanActivation CompareGenerations
    GetJob ListJobs GetServerInfo
    OpenSession RenewSession CloseSession Retrieve Backward
""".split())


class _Default:
    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT: Any = _Default()  # The client's own time limit.


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """When a call is tried again.

    Tried again are calls that were refused for now, RESOURCE_EXHAUSTED with the trailer `grpc-retry-pushback-ms`, after the time that it
    says; and calls that may be done twice (all reads, upserts and deletions of passages, sessions; not activations, creations) that end
    with UNAVAILABLE, ingests and other uploads only where that came before anything but their header was sent, as without a connection.
    The waits between tries grow exponentially with jitter: try n is waited for between half of and all of min(max_backoff_s,
    initial_backoff_s * multiplier ** (n - 1)), and never less than the server asked for. The call's time limit holds for all tries
    together: where a wait does not fit in it the last error is raised at once.

    Parameters
    ----------
    max_attempts : int
        In all; 1 turns retries off.
    initial_backoff_s, max_backoff_s : float
        Seconds.
    multiplier : float
        At least 1.
    """

    max_attempts: int = 8
    initial_backoff_s: float = 0.1
    max_backoff_s: float = 5.0
    multiplier: float = 2.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts is {self.max_attempts}, the least is 1")
        if self.initial_backoff_s < 0 or self.max_backoff_s < 0 or self.multiplier < 1:
            raise ValueError("backoffs are at least 0 seconds, multiplier is at least 1")

    def backoff_s(self, attempt: int) -> float:
        """Seconds to wait after attempt number `attempt`, from 1."""
        ceiling = min(self.max_backoff_s, self.initial_backoff_s * self.multiplier ** min(attempt - 1, 64))
        return ceiling * random.uniform(0.5, 1.0)


def _asked_wait_s(error: LociError, trailers: dict[str, Any]) -> float | None:
    """Seconds that the server asks to wait; None where it says nothing, negative where it asks not to try again."""
    for text in (trailers.get("grpc-retry-pushback-ms"), error.metadata.get("retry_after_ms")):
        if text is not None:
            try:
                return int(text) / 1000
            except ValueError:
                return -1.0  # As gRPC's own retries take it.
    return None


class Transport:
    """A channel and how it is called. Thread-safe. Not to be used in a forked child (RuntimeError): gRPC's threads do not survive a fork."""

    def __init__(self, address: str, timeout_s: float | None, retry: RetryPolicy, credentials: grpc.ChannelCredentials | None,
                 sleep: Callable[[float], None] = time.sleep) -> None:
        options = [
            ("grpc.max_receive_message_length", _MAX_RECEIVED_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
        ]
        self.timeout_s = _time_limit(timeout_s)
        self.retry = retry
        self._sleep = sleep
        self._pid = os.getpid()
        self._channel = grpc.insecure_channel(address, options) if credentials is None else grpc.secure_channel(address, credentials, options)
        self._closed = False
        self._lock = threading.Lock()
        self._stubs: dict[tuple[str, str], Any] = {}  # Guarded by _lock.
        self._stopped_at_close: weakref.WeakSet[Any] = weakref.WeakSet()  # Guarded by _lock.

    def stop_at_close(self, worker: Any) -> None:
        """`worker.stop()` is called where the channel is closed; the worker is not kept."""
        with self._lock:
            self._stopped_at_close.add(worker)

    def close(self) -> None:
        self._closed = True
        with self._lock:
            workers = list(self._stopped_at_close)
        for worker in workers:
            worker.stop()
        if os.getpid() == self._pid:
            self._channel.close()

    def check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError("this loci client was made before a fork; make a loci.Client in the child (for a DataLoader: in worker_init_fn)")
        if self._closed:
            raise RuntimeError("this loci client is closed")

    def deadline(self, timeout_s: Any) -> float | None:
        """When a call that begins now ends at the latest, by time.monotonic(); None: never."""
        limit = self.timeout_s if timeout_s is DEFAULT else _time_limit(timeout_s)
        return None if limit is None else time.monotonic() + limit

    def call(self, name: str, request: Any, timeout_s: Any = DEFAULT, deadline: float | None = None) -> Any:
        """Calls a method that takes and answers one message, with retries. `deadline`, where given, stands for `timeout_s`."""
        method = _protocol.METHODS[name]
        stub = self._stub("unary_unary", method)
        if deadline is None:
            deadline = self.deadline(timeout_s)
        attempt = 0
        while True:
            self.check_usable()
            attempt += 1
            try:
                return stub(request, timeout=_left(deadline))
            except grpc.RpcError as raised:
                error = error_of(raised, name, attempt)
                wait_s = self._wait_s(error, trailers_of(raised), method.name in _REPEATABLE, attempt)
                if wait_s is None or not _fits(wait_s, deadline):
                    raise error from None
            self._sleep(wait_s)

    def wait_after(self, attempt: int, deadline: float | None) -> bool:
        """Waits as between two tries of a call, after its try number `attempt`; False, at once, where there is no further try."""
        wait_s = self.retry.backoff_s(attempt)
        if attempt >= self.retry.max_attempts or not _fits(wait_s, deadline):
            return False
        self._sleep(wait_s)
        return True

    def stream(self, name: str, request: Any, deadline: float | None) -> Iterator[Any]:
        """Calls a method that answers a stream. Not tried again. To close the iterator cancels the call."""
        method = _protocol.METHODS[name]
        call = self._stub("unary_stream", method)(request, timeout=_left(deadline))
        try:
            yield from call
        except grpc.RpcError as raised:
            raise error_of(raised, name) from None
        finally:
            call.cancel()

    def send(self, name: str, requests: Iterable[Any], timeout_s: Any = DEFAULT) -> Any:
        """Calls a method that takes a stream. Where `requests` raises, the call is cancelled and that is raised.

        Tried again as call() does while no more than the first request was taken, as where there is no connection: without what follows it the
        server has done nothing.
        """
        method = _protocol.METHODS[name]
        deadline = self.deadline(timeout_s)
        requests = iter(requests)
        first = next(requests)
        attempt = 0
        while True:
            self.check_usable()
            attempt += 1
            stream = _Stream(first, requests)
            try:
                return stream.result_of(self._stub("stream_unary", method), _left(deadline))
            except grpc.RpcError as raised:
                error = error_of(raised, name, attempt)
                wait_s = self._wait_s(error, trailers_of(raised), True, attempt) if stream.give_up() else None
                if wait_s is None or not _fits(wait_s, deadline):
                    raise error from None
            except grpc.FutureCancelledError:
                raise LociError(grpc.StatusCode.CANCELLED, "the call was cancelled", method=name) from None
            self._sleep(wait_s)

    def _stub(self, kind: str, method: _protocol.Method) -> Any:
        self.check_usable()
        with self._lock:
            stub = self._stubs.get((kind, method.path))
            if stub is None:
                stub = self._stubs[kind, method.path] = getattr(self._channel, kind)(
                    method.path, request_serializer=lambda message: message.SerializeToString(), response_deserializer=method.response.FromString)
            return stub

    def _wait_s(self, error: LociError, trailers: dict[str, Any], repeatable: bool, attempt: int) -> float | None:
        """Seconds until the next try; None where there is none."""
        if attempt >= self.retry.max_attempts:
            return None
        asked_s = _asked_wait_s(error, trailers)
        if asked_s is not None and asked_s < 0:
            return None
        refused = asked_s is not None and error.code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
        lost = error.code == grpc.StatusCode.UNAVAILABLE and repeatable
        if not refused and not lost:
            return None
        return max(asked_s or 0.0, self.retry.backoff_s(attempt))


class _Stream:
    """The requests of one try: `first`, and then the rest. gRPC takes them in a thread of its own."""

    def __init__(self, first: Any, rest: Iterator[Any]) -> None:
        self._first = first
        self._rest = rest
        self._lock = threading.Lock()
        self._rest_is = ""  # "taken" by this try, or "left" to the next one. Guarded by _lock.
        self._started = threading.Event()
        self._call: Any = None
        self._raised: BaseException | None = None

    def result_of(self, stub: Any, timeout_s: float | None) -> Any:
        """What the call answers. Raises what the requests raised, else what the call ended with."""
        try:
            self._call = stub.future(self._requests(), timeout=timeout_s)
        finally:
            self._started.set()
        try:
            return self._call.result()
        except (grpc.RpcError, grpc.FutureCancelledError):
            if self._raised is not None:
                raise self._raised from None
            raise
        except BaseException:  # An interrupt: nothing is to go on in the background.
            self._call.cancel()
            raise

    def give_up(self) -> bool:
        """Whether the rest is left to another try: gRPC's thread has not begun to take it, and will not."""
        with self._lock:
            self._rest_is = self._rest_is or "left"
            return self._rest_is == "left"

    def _requests(self) -> Iterator[Any]:
        self._started.wait()  # There is a call to cancel from here on.
        yield self._first
        with self._lock:
            self._rest_is = self._rest_is or "taken"
            if self._rest_is == "left":
                return
        try:
            yield from self._rest
        except GeneratorExit:  # gRPC dropped this: the call has ended, and says why.
            raise
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread.
            self._raised = error
            self._call.cancel()  # Before the iterator ends: its end would tell the server that the stream is whole.


def _time_limit(timeout_s: Any) -> float | None:
    """A timeout_s that is a number of seconds above 0, or None, in seconds that gRPC can count; None: no limit."""
    if timeout_s is None:
        return None
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, (numbers.Real, np.number)):
        raise TypeError(f"timeout_s is a {type(timeout_s).__name__}, not a number of seconds or None")
    if not timeout_s > 0:
        raise ValueError(f"timeout_s is {timeout_s}; it must be above 0 seconds, or None for no limit")
    return float(timeout_s) if timeout_s < _MAX_TIMEOUT_S else None


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)


def _fits(wait_s: float, deadline: float | None) -> bool:
    return deadline is None or time.monotonic() + wait_s < deadline
