"""The client."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Callable

import grpc
import numpy as np

from . import _matrix, _protocol, types
from ._progress import ProgressBar, shown
from ._transport import DEFAULT, RetryPolicy, Transport
from .errors import LociError
from .session import Session, as_queries, search_options

DEFAULT_ADDRESS = "127.0.0.1:7440"

# A batch of an ingest ends with so many passages or bytes, whichever comes first.
_BATCH_PASSAGES = 1000
_BATCH_BYTES = 4 << 20
_PIECE_BYTES = 1 << 20

_CHECKPOINT_FILES = ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json", "modules.json",
                     "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json")


class Client:
    """A connection to a Loci server.

        with loci.Client("127.0.0.1:7440") as client:
            client.ingest("facts", [loci.Passage("curie", "Marie Curie discovered radium.")])
            for hit in client.search("facts", "who discovered radium?", top_k=3).hits:
                print(hit.score, hit.passage.text)

    Connects at the first call, and again by itself. Every call raises LociError where the server refuses it or can't be reached, ValueError or
    TypeError where an argument can't be sent at all, and takes `timeout_s`: seconds above 0 for all of its tries together, None or inf for no
    limit. The empty store name means "default".

    Thread-safe: one client serves all threads of a process. It does not survive a fork; make one in the child (RuntimeError tells).

    Parameters
    ----------
    address : str
        HOST:PORT.
    timeout_s : float or None
        Of calls that name none, ingests and jobs left out, which have none. Seconds.
    retry : RetryPolicy
        When a call is tried again.
    credentials : grpc.ChannelCredentials, optional
        For TLS, where a proxy before the server speaks it. Default: plain text.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, *, timeout_s: float | None = 60.0, retry: RetryPolicy = RetryPolicy(),
                 credentials: grpc.ChannelCredentials | None = None) -> None:
        self.address = address
        self._transport = Transport(address, timeout_s, retry, credentials)
        self._sessions_lock = threading.Lock()
        self._sessions: dict[str, Session] = {}  # Of shared_session(). Guarded by _sessions_lock.

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<loci.Client of {self.address}>"

    @property
    def timeout_s(self) -> float | None:
        """Seconds that calls have which name none; None: no limit."""
        return self._transport.timeout_s

    def close(self) -> None:
        """Ends the connection, and the sessions of shared_session(); other sessions are renewed no longer. Calls in flight are cancelled."""
        with self._sessions_lock:
            sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            session.close()
        self._transport.close()

    def call(self, method: str, timeout_s: Any = DEFAULT, **fields: Any) -> Any:
        """Any method that takes and answers one message, by its name, with the fields of its request as in proto/loci/v1; answers the message.

            client.call("AdminService.PlanActivation", store="facts", generation="g2").can_activate
        """
        known = _protocol.METHODS.get(method)
        if known is None:
            raise ValueError(f"no method {method!r}; the methods are {', '.join(sorted(_protocol.METHODS))}")
        return self._transport.call(method, _protocol.fill(known.request, fields), timeout_s)

    # Retrieval.

    def encode(self, texts: Sequence[str] | str, *, role: str = "PASSAGE", encoder: str = "", truncation: str = "TRUNCATE", dtype: Any = np.float32,
               timeout_s: Any = DEFAULT) -> types.EncodeResult:
        """Turns texts into vectors.

        Parameters
        ----------
        texts : list of str
            1 to 2,048; the empty string is a text.
        role : str
            "QUERY" or "PASSAGE": which prefix stands before them.
        encoder : str
            A fingerprint, one half of it, or a name; empty: the server's default.
        truncation : str
            What becomes of longer texts: "TRUNCATE", "POOL_WINDOWS" (windows are averaged by token count) or "REFUSE" (INVALID_ARGUMENT).
        dtype : numpy.float32, numpy.float64 or numpy.float16
            Of the vectors.
        """
        request = _protocol.message(
            "EncodeRequest", encoder=encoder, texts=[texts] if isinstance(texts, str) else texts, role=_protocol.enum_number("TextRole", role, "role"),
            truncation=_protocol.enum_number("Truncation", truncation, "truncation"),
            vector_type=_protocol.enum_number("VectorType", np.dtype(dtype).name, "dtype"))
        reply = self._transport.call("RetrievalService.Encode", request, timeout_s)
        return types.EncodeResult(_matrix.decode(reply.vectors), [types.usage_of(usage) for usage in reply.usage], reply.encoder_fingerprint,
                                  types.timings_of(reply.timings))

    def search(self, store: str, queries: str | Sequence[str] | np.ndarray, top_k: int = 10, *, filter: str = "", generation: str = "",
               include_text: bool = True, include_vectors: bool = False, exact: bool = False, nprobe: int = 0, ef_search: int = 0,
               rescore_factor: int = 0, recall_target: float = 0.0, timeout_s: Any = DEFAULT) -> types.SearchResult:
        """Finds the passages with the largest inner product with each query.

        Parameters
        ----------
        queries : str, list of str, or np.ndarray
            Texts, or vectors [queries, dim] (or one, [dim]), finite. 1 to 1,024.
        top_k : int
            1 to 10,000, times the queries at most 1,000,000.
        filter : str
            Over metadata: 'lang = "en" and year >= 2020'. The grammar stands in proto/loci/v1/retrieval.proto.
        generation : str
            Empty: the active one; naming one pins it.
        include_text, include_vectors : bool
            Fill Hit.passage and Hit.vector.
        exact : bool
            Score every passage.
        nprobe, ef_search, rescore_factor : int
            Of an approximate index; 0: its own default.
        recall_target : float
            Above 0, to 1: the cheapest parameters that were measured to reach it; stands for the three before.
        """
        texts, vectors = as_queries(queries)
        given = [{"text": text} for text in texts or ()] if vectors is None else [{"vector": _matrix.encode(row[None])} for row in vectors]
        request = _protocol.message("SearchRequest", store=store, generation=generation, top_k=top_k, filter=filter, include_text=include_text,
                                    include_vectors=include_vectors, queries=given,
                                    options=search_options(exact, nprobe, ef_search, rescore_factor, recall_target))
        reply = self._transport.call("RetrievalService.Search", request, timeout_s)
        return types.from_message(
            types.SearchResult, reply, results=[[types.hit_of(hit) for hit in result.hits] for result in reply.results],
            usage=[types.usage_of(result.usage) if result.HasField("usage") else None for result in reply.results], timings=types.timings_of(reply.timings))

    def answer(self, store: str, question: str, *, top_k: int = 0, max_answers: int = 0, reader: str = "", filter: str = "", generation: str = "",
               timeout_s: Any = DEFAULT) -> types.AnswerResult:
        """Finds passages and reads an answer out of them, with the evidence.

        Parameters
        ----------
        top_k : int
            Passages that are read, 1 to 100; 0 means 5.
        max_answers : int
            1 to 100; 0 means 1.
        """
        reply = self._transport.call("RetrievalService.Answer", _protocol.message(
            "AnswerRequest", store=store, generation=generation, question=question, top_k=top_k, max_answers=max_answers, reader=reader,
            filter=filter), timeout_s)
        answers = [types.Answer(answer.text, answer.score, [types.from_message(types.Evidence, evidence) for evidence in answer.evidence])
                   for answer in reply.answers]
        return types.from_message(types.AnswerResult, reply, answers=answers, passages=[types.hit_of(hit) for hit in reply.passages],
                                  timings=types.timings_of(reply.timings))

    # Content.

    def upsert_passages(self, store: str, passages: Iterable[types.PassageLike], *, timeout_s: Any = DEFAULT) -> types.WriteResult:
        """Adds passages, replacing those with the same ids; all of them become visible together. 1 to 10,000; ingest() takes more."""
        reply = self._transport.call("AdminService.UpsertPassages", _protocol.message(
            "UpsertPassagesRequest", store=store, passages=[types.passage_message(passage) for passage in passages]), timeout_s)
        return types.WriteResult(reply.upserted_count, reply.generation, reply.revision, [types.usage_of(usage) for usage in reply.usage])

    def delete_passages(self, store: str, ids: Sequence[str], *, timeout_s: Any = DEFAULT) -> types.WriteResult:
        """Deletes passages, 1 to 10,000; unknown ids are passed over."""
        reply = self._transport.call("AdminService.DeletePassages", _protocol.message("DeletePassagesRequest", store=store, ids=_ids(ids)), timeout_s)
        return types.WriteResult(reply.deleted_count, reply.generation, reply.revision)

    def get_passages(self, store: str, ids: Sequence[str], *, include_vectors: bool = False, generation: str = "",
                     timeout_s: Any = DEFAULT) -> types.PassagesResult:
        """Passages by id, 1 to 10,000. LociError NOT_FOUND names one that is not there."""
        reply = self._transport.call("AdminService.GetPassages", _protocol.message(
            "GetPassagesRequest", store=store, generation=generation, ids=_ids(ids), include_vectors=include_vectors), timeout_s)
        return types.PassagesResult([types.passage_of(passage) for passage in reply.passages], _matrix.decode(reply.vectors) if include_vectors else None,
                                    reply.generation, reply.revision)

    def ingest(self, store: str, passages: Iterable[types.PassageLike], *, vectors: np.ndarray | Iterable[Any] | None = None, encoder_fingerprint: str = "",
               mode: str = "NEW_GENERATION", index: str = "", vector_type: str | None = None, activate: bool = True, writes_since: str | None = None,
               chunking: types.Chunking | None = None, bad_lines: str | None = None, duplicates: str | None = None, reencode: bool = False,
               wait: bool = True, total: int | None = None, progress: bool | None = None, timeout_s: float | None = None) -> types.IngestResult:
        """Builds a new generation from a stream of passages, or upserts them. The server takes the next ones when it has room for them.

        Parameters
        ----------
        store : str
            Created if absent.
        passages : iterable of Passage or of mappings with its fields
            Consumed by another thread. Where it raises, the ingest is given up and the exception comes out here.
        vectors : np.ndarray or iterable
            One row a passage, [passages, dim], in order: nothing is encoded then. Needs encoder_fingerprint, whose passage half made them.
        mode : str
            "NEW_GENERATION": the passages sent are the store's whole content from then on. "UPSERT": they are added to it.
        index : str
            "exact" (default), "exact:int8", a FAISS factory string, or "auto[:recall=X,memory=SIZE]".
        vector_type : str
            Of the vectors on disk: "FLOAT32" (default), "FLOAT16" or "BFLOAT16".
        activate : bool
            Of a new generation.
        writes_since : str
            What becomes of writes made meanwhile: "REPLAY" or "DISCARD"; None refuses with their count where there are any.
        chunking : Chunking
            What is sent are documents, which the server cuts into passages.
        bad_lines, duplicates : str
            "SKIP" or "FAIL"; see IngestHeader.
        reencode : bool
            Encode also texts whose vectors are there.
        wait : bool
            Until all is durable and active; else until all was received, and the job goes on: see wait_for_job.
        total : int
            Of passages, for the progress bar, where they have no len().
        progress : bool
            Show a bar on standard error. Default: where that is a terminal.
        timeout_s : float or None
            Seconds. Default: no limit.

        Raises
        ------
        LociError
            INVALID_ARGUMENT, reason EMPTY_INGEST: there was no passage, or every one of them was rejected; the first rejection is in the message.
            Where some were taken it is IngestResult.errors that has the rejected. ABORTED, reason JOB_IN_THE_WAY: another ingest of the store
            runs, or one was given up a moment ago, and the server still takes it down.
        """
        header = _protocol.message(
            "IngestHeader", store=store, mode=_protocol.enum_number("IngestMode", mode, "mode"), no_activate=not activate,
            writes_since=_protocol.enum_number("WritesSince", writes_since, "writes_since"), no_wait=not wait, encoder_fingerprint=encoder_fingerprint,
            bad_lines=_protocol.enum_number("LinePolicy", bad_lines, "bad_lines"),
            duplicates=_protocol.enum_number("LinePolicy", duplicates, "duplicates"), reencode=reencode)
        if index or vector_type:
            header.index.CopyFrom(_protocol.message("IndexSpec", factory=index, vector_type=_protocol.enum_number("VectorType", vector_type, "vector_type")))
        if chunking is not None:
            header.chunking.CopyFrom(_protocol.message("Chunking", max_tokens=chunking.max_tokens, overlap_tokens=chunking.overlap_tokens))
        if total is None:
            total = len(passages) if hasattr(passages, "__len__") else 0  # type: ignore[arg-type]

        with ProgressBar(shown(progress), f"ingest {store or 'default'}", "passages") as bar:
            def requests() -> Iterator[Any]:
                yield _protocol.message("IngestRequest", header=header)
                sent = 0
                for batch in _batches(passages, vectors):
                    yield _protocol.message("IngestRequest", batch=batch)
                    sent += len(batch.passages)
                    bar.update(sent, total)
                bar.update(sent, total, last=True)

            result = types.ingest_of(self._transport.send("AdminService.Ingest", requests(), timeout_s))
        if result.rejected_count and not result.accepted_count:
            first = result.errors[0]
            raise LociError(grpc.StatusCode.INVALID_ARGUMENT, f"none of {result.rejected_count} passages was taken, the store stays as it is; "
                            f"line {first.line}, id {first.id!r}: {first.message}", "EMPTY_INGEST", {"job": result.job}, "AdminService.Ingest")
        return result

    # Stores and generations.

    def create_store(self, store: str, *, keep_generations: int | None = None, encoder_precision: str | None = None, timeout_s: Any = DEFAULT) -> types.Store:
        """LociError ALREADY_EXISTS where there is one. `keep_generations` and `encoder_precision`: see update_store; None: the server's default, and "auto"."""
        return types.from_message(types.Store, self.call("AdminService.CreateStore", timeout_s, store=store, keep_generations=keep_generations,
                                                         encoder_precision=encoder_precision).store)

    def get_store(self, store: str, *, timeout_s: Any = DEFAULT) -> types.Store:
        return types.from_message(types.Store, self.call("AdminService.GetStore", timeout_s, store=store).store)

    def list_stores(self, *, timeout_s: Any = DEFAULT) -> list[types.Store]:
        """By name."""
        return [types.from_message(types.Store, store) for store in self.call("AdminService.ListStores", timeout_s).stores]

    def update_store(self, store: str, *, keep_generations: int | None = None, encoder_precision: str | None = None, timeout_s: Any = DEFAULT) -> types.Store:
        """After an activation so many generations are kept besides the active one, 0 to 1,000; 0 keeps all. `encoder_precision` "int8": the store's
        texts, asked or written from now on, are encoded in int8; "auto": as the server is configured. None changes nothing."""
        return types.from_message(types.Store, self.call("AdminService.UpdateStore", timeout_s, store=store, keep_generations=keep_generations,
                                                         encoder_precision=encoder_precision).store)

    def delete_store(self, store: str, *, confirm_name: str, timeout_s: Any = DEFAULT) -> None:
        """Deletes a store with its generations and writes. `confirm_name` repeats the name."""
        self.call("AdminService.DeleteStore", timeout_s, store=store, confirm_name=confirm_name)

    def list_generations(self, store: str, *, timeout_s: Any = DEFAULT) -> list[types.Generation]:
        """Oldest first."""
        return [types.generation_of(generation) for generation in self.call("AdminService.ListGenerations", timeout_s, store=store).generations]

    def delete_generation(self, store: str, generation: str, *, timeout_s: Any = DEFAULT) -> None:
        """Of one that is not active."""
        self.call("AdminService.DeleteGeneration", timeout_s, store=store, generation=generation)

    def pin_generation(self, store: str, generation: str, pinned: bool = True, *, timeout_s: Any = DEFAULT) -> types.Generation:
        """Keeps a generation from being deleted by retention, or lets it go."""
        return types.generation_of(self.call("AdminService.PinGeneration", timeout_s, store=store, generation=generation, pinned=pinned).generation)

    def activate(self, store: str, generation: str, *, writes_since: str | None = None, in_place: bool = False, dry_run: bool = False, wait: bool = True,
                 timeout_s: float | None = None) -> types.Activation:
        """Makes a generation the one that answers: loaded, verified, warmed, then swapped in by one pointer. No search notices.

        Parameters
        ----------
        writes_since : str
            What becomes of writes that it lacks: "REPLAY" or "DISCARD"; None refuses with their count.
        in_place : bool
            Free what serves before the other one is loaded, where both do not fit into memory: the store is not available meanwhile.
        dry_run : bool
            Check everything, change nothing.
        wait : bool
            False: answer with the job at once.
        """
        return _activation(self.call("AdminService.ActivateGeneration", timeout_s, store=store, generation=generation, no_wait=not wait, dry_run=dry_run,
                                     **_activation_fields(writes_since, in_place)))

    def rollback(self, store: str, *, writes_since: str | None = None, in_place: bool = False, dry_run: bool = False, wait: bool = True,
                 timeout_s: float | None = None) -> types.Activation:
        """Activates the generation that served before the active one. Arguments as activate()."""
        return _activation(self.call("AdminService.RollbackStore", timeout_s, store=store, no_wait=not wait, dry_run=dry_run,
                                     **_activation_fields(writes_since, in_place)))

    # Jobs, encoders, the server.

    def get_job(self, job: str, *, timeout_s: Any = DEFAULT) -> types.Job:
        return types.job_of(self.call("AdminService.GetJob", timeout_s, job=job))

    def list_jobs(self, store: str = "", *, state: str | None = None, limit: int = 0, timeout_s: Any = DEFAULT) -> list[types.Job]:
        """Newest first, of one store or of all (empty). `limit` at most 1,000; 0 means 100."""
        return [types.job_of(job) for job in self.call("AdminService.ListJobs", timeout_s, store=store, limit=limit,
                                                       state=_protocol.enum_number("JobState", state, "state")).jobs]

    def cancel_job(self, job: str, *, timeout_s: Any = DEFAULT) -> types.Job:
        """Asks a running job to end."""
        return types.job_of(self.call("AdminService.CancelJob", timeout_s, job=job))

    def wait_for_job(self, job: str, *, progress: bool | None = None, on_change: Callable[[types.Job], None] | None = None,
                     timeout_s: float | None = None) -> types.Job:
        """Waits until a job has ended.

        Parameters
        ----------
        progress : bool
            Show a bar on standard error. Default: where that is a terminal.
        on_change : callable
            Called with the job whenever it changed, at most every 200 ms.
        timeout_s : float or None
            Seconds; LociError DEADLINE_EXCEEDED then, and the job goes on.

        Raises
        ------
        LociError
            Where it did not succeed: its own error; CANCELLED, or ABORTED where the server ended while it ran (INTERRUPTED).
        """
        deadline = self._transport.deadline(timeout_s)
        lost = 0
        with ProgressBar(shown(progress), job, "") as bar:
            while True:
                last = None
                try:
                    for message in self._transport.stream("AdminService.WatchJob", _protocol.message("WatchJobRequest", job=job), deadline=deadline):
                        lost = 0
                        last = types.job_of(message)
                        bar.update(last.done, last.total, f"{last.kind} {last.phase}", last.unit, last.eta_ms, last=not last.running)
                        if on_change is not None:
                            on_change(last)
                except LociError as error:
                    lost += 1
                    if error.code != grpc.StatusCode.UNAVAILABLE or not self._transport.wait_after(lost, deadline):
                        raise
                    continue
                if last is not None and not last.running:
                    break
        if last.state == "SUCCEEDED":
            return last
        code = {"CANCELLED": grpc.StatusCode.CANCELLED, "INTERRUPTED": grpc.StatusCode.ABORTED}.get(last.state) or _code(last.error_code)
        raise LociError(code, last.error_message or f"the job ended as {last.state}", "JOB_" + last.state, {"job": job}, "AdminService.WatchJob")

    def import_encoder(self, name: str, folder: str | os.PathLike[str], *, timeout_s: float | None = None) -> types.EncoderInfo:
        """Gives the server a checkpoint's folder as a further encoder. `name` has 1 to 64 of [A-Za-z0-9._-]. The default encoder stays what it is.

        OSError where the folder or a file can't be read.
        """
        os.scandir(folder).close()  # FileNotFoundError and the like come from here.

        def requests() -> Iterator[Any]:
            yield _protocol.message("ImportEncoderRequest", header={"name": name})
            for path in _CHECKPOINT_FILES:
                file_name = os.path.join(folder, path)
                if os.path.exists(file_name):
                    with open(file_name, "rb") as file:
                        for data in iter(lambda: file.read(_PIECE_BYTES), b""):
                            yield _protocol.message("ImportEncoderRequest", piece={"path": path, "data": data})

        return types.from_message(types.EncoderInfo, self._transport.send("AdminService.ImportEncoder", requests(), timeout_s).encoder)

    def server_info(self, *, timeout_s: Any = DEFAULT) -> types.ServerInfo:
        reply = self.call("AdminService.GetServerInfo", timeout_s)
        chosen = next((device for device in reply.devices if device.chosen), None)
        limits = {field.name: value for field, value in reply.limits.ListFields() if field.name != "method_limits"}
        return types.ServerInfo(reply.version, [types.from_message(types.EncoderInfo, encoder) for encoder in reply.encoders],
                                chosen.device if chosen else "", chosen.reason if chosen else "", reply.cpu_isa, list(reply.readers), limits)

    # Training.

    def open_session(self, store: str = "", *, generation: str = "", lease_ms: int = 0, timeout_s: Any = DEFAULT) -> Session:
        """Leases what a store serves now, for training.

            with client.open_session("facts") as session:
                batch = session.retrieve(query_vectors, top_k=8)
                gradients = session.backward(batch, log_likelihoods)

        Parameters
        ----------
        generation : str
            Empty: the active one, with what was written since it was built.
        lease_ms : int
            Milliseconds, 1,000 to 3,600,000; 0 means 60,000. How long the server keeps it once this process is gone.
        """
        return Session(self, store, generation, lease_ms, timeout_s)

    def shared_session(self, store: str = "", *, refresh: bool = False) -> Session:
        """This client's session of a store: opened when it is first asked for, again where the server lost it, and closed with the client.

        It sees what the store served when it was opened. With `refresh` a new one takes its place, which sees what is served now; the old one
        is closed once nothing uses it.
        """
        with self._sessions_lock:
            session = self._sessions.get(store)
            if session is None or session.lost is not None or refresh:
                session = self._sessions[store] = self.open_session(store)
            return session

    def publish_encoder(self, weights: bytes | None = None, *, store: str = "", halves: str | None = None, parent_fingerprint: str = "", job_name: str = "",
                        metrics: Mapping[str, float] | None = None, max_encoder_share: float = 0.0, activate: bool = True, fingerprint: str = "",
                        progress: bool | None = None, timeout_s: float | None = None) -> types.PublishResult:
        """Gives the server trained weights as a new encoder, and a store to use it.

            client.publish_encoder(encoder.weights(), store="facts", halves="QUERY", job_name="run-7", metrics={"step": 1000})

        A query half goes live at once: queries are encoded by it when this returns. Passage weights begin a job that re-encodes the store, which
        goes on with the old encoder until the end: wait_for_job(result.job).

        Parameters
        ----------
        weights : bytes
            A safetensors file, 1 byte to 2 GiB, with the tensors of the parent's: BertEncoder.weights(). None with `fingerprint`.
        store : str
            That the encoder goes into. Empty (here it does not mean "default"): none; it is stored, to be named by its fingerprint.
        halves : str
            "QUERY", "PASSAGE" or "BOTH": which texts the weights are for; the other half stays the parent's. No default.
        parent_fingerprint : str
            The encoder that was trained. Empty: the one that encodes the store's queries now; without a store the server's default.
        job_name, metrics : str, mapping of str to float
            For the lineage: the training job's name and figures.
        max_encoder_share : float
            Where the store is re-encoded: of the time in which passages wait, how much is spent on them, 0.01 to 1; 0 means 0.5.
        activate : bool
            Where the store is re-encoded: activate the generation at the end.
        fingerprint : str
            Instead of weights: an encoder that the server has, "QUERY:PASSAGE", goes into the store. So a query half is taken back.

        Raises
        ------
        LociError
            INVALID_ARGUMENT, reasons ENCODER_INVALID and WEIGHTS_MISMATCH; NOT_FOUND, reason ENCODER_NOT_FOUND; FAILED_PRECONDITION, reason
            ENCODER_MISMATCH: the store's vectors are not of the passage half that these queries would ask; ABORTED, reason JOB_IN_THE_WAY.
        """
        if (weights is None) == (not fingerprint):
            raise ValueError("give exactly one of weights and fingerprint")
        header = _protocol.message("PublishHeader", store=store, parent_fingerprint=parent_fingerprint, job_name=job_name, metrics=metrics,
                                   max_encoder_share=max_encoder_share, no_activate=not activate, fingerprint=fingerprint,
                                   halves=_protocol.enum_number("EncoderHalves", halves, "halves"))
        data = memoryview(weights or b"")
        if weights is not None:
            header.size_bytes = data.nbytes
            header.sha256 = hashlib.sha256(data).hexdigest()

        with ProgressBar(shown(progress), "publish", "bytes") as bar:
            def requests() -> Iterator[Any]:
                yield _protocol.message("PublishRequest", header=header)
                for begin in range(0, data.nbytes, _PIECE_BYTES):
                    yield _protocol.message("PublishRequest", weights=bytes(data[begin:begin + _PIECE_BYTES]))
                    bar.update(min(begin + _PIECE_BYTES, data.nbytes), data.nbytes)
                bar.update(data.nbytes, data.nbytes, last=True)

            return types.from_message(types.PublishResult, self._transport.send("TrainingService.PublishEncoder", requests(), timeout_s))


def _ids(ids: Sequence[str]) -> Sequence[str]:
    if isinstance(ids, str):
        raise TypeError("ids is a string; give a list of ids")
    return ids


def _batches(passages: Iterable[types.PassageLike], vectors: Any) -> Iterator[Any]:
    """PassageBatch messages. ValueError where there are not as many vectors as passages."""
    missing = object()
    rows: Iterable[Any] = itertools.repeat(None) if vectors is None else itertools.chain(vectors, itertools.repeat(missing))
    rows = iter(rows)
    batch_rows: list[np.ndarray] = []
    batch, size_bytes = _protocol.message("PassageBatch"), 0

    def finished() -> Any:
        if batch_rows:
            batch.vectors.CopyFrom(_matrix.encode(_matrix.as_matrix(np.stack(batch_rows), "vectors")))
        return batch

    for passage in passages:
        row = next(rows)
        if row is missing:
            raise ValueError("there are fewer vectors than passages")
        message = types.passage_message(passage)
        batch.passages.append(message)
        size_bytes += message.ByteSize()
        if row is not None:
            batch_rows.append(_matrix.as_array(row, "vectors"))
            if batch_rows[-1].shape != batch_rows[0].shape:
                raise ValueError(f"vectors has rows of the shapes {batch_rows[0].shape} and {batch_rows[-1].shape}")
            size_bytes += batch_rows[-1].nbytes
        if len(batch.passages) >= _BATCH_PASSAGES or size_bytes >= _BATCH_BYTES:
            yield finished()
            batch, batch_rows, size_bytes = _protocol.message("PassageBatch"), [], 0
    if vectors is not None and next(rows) is not missing:
        raise ValueError("there are more vectors than passages")
    if batch.passages:
        yield finished()


def _activation_fields(writes_since: str | None, in_place: bool) -> Mapping[str, Any]:
    return {"writes_since": _protocol.enum_number("WritesSince", writes_since, "writes_since"),
            "strategy": _protocol.enum_number("ActivationStrategy", "IN_PLACE" if in_place else None, "in_place")}


def _activation(reply: Any) -> types.Activation:
    return types.from_message(types.Activation, reply)


def _code(number: int) -> grpc.StatusCode:
    return next((code for code in grpc.StatusCode if code.value[0] == number), grpc.StatusCode.UNKNOWN)
