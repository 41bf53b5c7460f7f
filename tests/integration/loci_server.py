"""A Loci server for tests, and a client that knows it by reflection alone: no generated code of this repository."""

from __future__ import annotations

import faulthandler
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from typing import Any, Iterable, Iterator

import grpc
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

MAX_MESSAGE_BYTES = 64 << 20
START_TIMEOUT_S = 120


CHECKPOINT_FILES = ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json", "modules.json",
                    "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json")


def perturbed_checkpoint(folder: str, target: str) -> None:
    """Copies a checkpoint, but for one tensor: another encoder of the same dimension. The tensor is the first one-dimensional of its length."""
    os.makedirs(os.path.join(target, "1_Pooling"))
    for path in CHECKPOINT_FILES:
        if os.path.exists(os.path.join(folder, path)):
            shutil.copyfile(os.path.join(folder, path), os.path.join(target, path))
    with open(os.path.join(target, "model.safetensors"), "r+b") as weights:
        header_bytes = struct.unpack("<Q", weights.read(8))[0]
        header = json.loads(weights.read(header_bytes))
        name = next(name for name in sorted(header) if name.endswith("embeddings.LayerNorm.weight"))
        begin, end = header[name]["data_offsets"]
        weights.seek(8 + header_bytes + begin)
        values = struct.unpack(f"<{(end - begin) // 4}f", weights.read(end - begin))
        weights.seek(8 + header_bytes + begin)
        weights.write(struct.pack(f"<{len(values)}f", *(value * (1.3 if i % 3 else 0.6) for i, value in enumerate(values))))


class ServerProcess:
    """The binary in $LOCI_SERVER_BINARY on a port of loopback; or, where $LOCI_SERVER names a running server, that one."""

    def __init__(self, data_dir: str | None = None, flags: Iterable[str] = ()) -> None:
        self.process: subprocess.Popen[str] | None = None
        self._own_data_dir = None
        if os.environ.get("LOCI_SERVER"):
            self.address = os.environ["LOCI_SERVER"]
            return
        binary = os.environ["LOCI_SERVER_BINARY"]
        model = os.environ.get("LOCI_MODEL_DIR", "models/all-MiniLM-L6-v2")
        if data_dir is None:
            self._own_data_dir = tempfile.TemporaryDirectory(prefix="loci_data_")
            data_dir = self._own_data_dir.name
        self._log = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")
        self.process = subprocess.Popen(
            [binary, "--data-dir", data_dir, "--model", model, "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", *flags],
            stdout=subprocess.PIPE, stderr=self._log, text=True)
        self.address = ""
        self.metrics_address = ""
        watchdog = threading.Timer(START_TIMEOUT_S, self.process.kill)
        watchdog.start()
        try:
            for line in self.process.stdout:
                if match := re.fullmatch(r"metrics on (\S+)\n", line):
                    self.metrics_address = match[1]
                if match := re.fullmatch(r"listening on (\S+)\n", line):
                    self.address = match[1]
                    break
        finally:
            watchdog.cancel()
        if not self.address:
            self.process.kill()
            self.process.wait()
            raise RuntimeError("the server did not start:\n" + self.log())

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def stop(self) -> int | None:
        """Ends it by SIGTERM and returns its exit status; None where it was not started here."""
        if self.process is None:
            return None
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        self.process.stdout.close()
        if status != 0:
            sys.stderr.write(self.log())
        self._log.close()
        if self._own_data_dir is not None:
            self._own_data_dir.cleanup()
        self.process = None
        return status


def _well_known_messages() -> dict[str, type]:
    """google.rpc.Status and ErrorInfo, and the messages of grpc.health.v1, by their published field numbers."""
    field = descriptor_pb2.FieldDescriptorProto
    optional, repeated = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    file = descriptor_pb2.FileDescriptorProto(name="well_known_for_tests.proto", package="known", syntax="proto3",
                                              dependency=["google/protobuf/any.proto"])

    def add(name: str, *fields: tuple) -> descriptor_pb2.DescriptorProto:
        message = file.message_type.add(name=name)
        for number, field_name, kind, label, type_name in fields:
            message.field.add(name=field_name, number=number, type=kind, label=label, type_name=type_name)
        return message

    add("Status", (1, "code", field.TYPE_INT32, optional, None), (2, "message", field.TYPE_STRING, optional, None),
        (3, "details", field.TYPE_MESSAGE, repeated, ".google.protobuf.Any"))
    info = add("ErrorInfo", (1, "reason", field.TYPE_STRING, optional, None), (2, "domain", field.TYPE_STRING, optional, None),
               (3, "metadata", field.TYPE_MESSAGE, repeated, ".known.ErrorInfo.MetadataEntry"))
    entry = info.nested_type.add(name="MetadataEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=optional)
    entry.field.add(name="value", number=2, type=field.TYPE_STRING, label=optional)
    add("HealthCheckRequest", (1, "service", field.TYPE_STRING, optional, None))
    add("HealthCheckResponse", (1, "status", field.TYPE_INT32, optional, None))
    pool = descriptor_pool.DescriptorPool()
    any_file = descriptor_pb2.FileDescriptorProto()
    any_pb2.DESCRIPTOR.CopyToProto(any_file)
    pool.Add(any_file)
    pool.Add(file)
    names = ["Status", "ErrorInfo", "HealthCheckRequest", "HealthCheckResponse"]
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName("known." + name)) for name in names}


KNOWN = _well_known_messages()


def error_info(error: grpc.RpcError) -> Any:
    """The ErrorInfo in the trailer grpc-status-details-bin; checks that code and message are those of the call."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    if details is None:
        raise AssertionError(f"no grpc-status-details-bin with {error.code()}: {error.details()}")
    status = KNOWN["Status"].FromString(details)
    if (status.code, status.message) != (error.code().value[0], error.details()):
        raise AssertionError(f"details say {status.code} {status.message!r}, the call {error.code()} {error.details()!r}")
    for detail in status.details:
        if detail.type_url == "type.googleapis.com/google.rpc.ErrorInfo":
            return KNOWN["ErrorInfo"].FromString(detail.value)
    raise AssertionError("no ErrorInfo in the details")


class ReflectionClient:
    """Calls methods by name, with messages that the server itself describes."""

    # Descriptors and classes are made at the beginning and by one thread: protobuf's C code crashes where two make them at once.
    _descriptors_lock = threading.RLock()

    def __init__(self, address: str, like: ReflectionClient | None = None) -> None:
        """With `like`, of the same server, messages are its, already made."""
        self.channel = grpc.insecure_channel(address, options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.max_send_message_length", 2 * MAX_MESSAGE_BYTES),
            ("grpc.enable_http_proxy", 0)])
        if like is not None:
            self.database, self.pool = like.database, like.pool
            return
        with self._descriptors_lock:
            self.database = ProtoReflectionDescriptorDatabase(self.channel)
            self.pool = descriptor_pool.DescriptorPool(self.database)
            for service in ("AdminService", "RetrievalService", "TrainingService"):
                file = self.pool.FindServiceByName("loci.v1." + service).file
                for described in (file, *file.dependencies):
                    self._make_classes(described.message_types_by_name.values())

    def _make_classes(self, descriptors: Iterable[Any]) -> None:
        for descriptor in descriptors:
            message_factory.GetMessageClass(descriptor)
            self._make_classes(descriptor.nested_types)

    def message_class(self, name: str) -> type:
        with self._descriptors_lock:
            return message_factory.GetMessageClass(self.pool.FindMessageTypeByName("loci.v1." + name))

    def method_classes(self, service: str, name: str) -> tuple[type, type]:
        """Of a method's request and response."""
        with self._descriptors_lock:
            method = self.pool.FindServiceByName("loci.v1." + service).FindMethodByName(name)
            return message_factory.GetMessageClass(method.input_type), message_factory.GetMessageClass(method.output_type)

    def close(self) -> None:
        self.channel.close()

    def message(self, name: str, **fields: Any) -> Any:
        return self.message_class(name)(**fields)

    def value(self, enum: str, name: str) -> int:
        with self._descriptors_lock:
            return self.pool.FindEnumTypeByName("loci.v1." + enum).values_by_name[name].number

    def call(self, method: str, timeout: float = 60, **fields: Any) -> Any:
        """`method` is "RetrievalService.Search"; `fields` are the request's."""
        service, name = method.split(".")
        request, response = self.method_classes(service, name)
        stub = self.channel.unary_unary(f"/loci.v1.{service}/{name}", lambda message: message.SerializeToString(), response.FromString)
        return stub(request(**fields), timeout=timeout)

    def ingest(self, header: dict[str, Any], batches: Iterable[dict[str, Any]], timeout: float = 120) -> Any:
        response = self.message_class("IngestResponse")

        def requests() -> Iterator[Any]:
            yield self.message("IngestRequest", header=self.message("IngestHeader", **header))
            for batch in batches:
                yield self.message("IngestRequest", batch=self.message("PassageBatch", **batch))

        stub = self.channel.stream_unary("/loci.v1.AdminService/Ingest", lambda message: message.SerializeToString(), response.FromString)
        return stub(requests(), timeout=timeout)

    def export_store(self, timeout: float = 60, **fields: Any) -> bytes:
        """The archive of a store."""
        chunk = self.message_class("ExportChunk")
        stub = self.channel.unary_stream("/loci.v1.AdminService/ExportStore", lambda message: message.SerializeToString(), chunk.FromString)
        return b"".join(part.data for part in stub(self.message("ExportRequest", **fields), timeout=timeout))

    def import_store(self, header: dict[str, Any], archive: bytes, timeout: float = 120, piece: int = 4096) -> Any:
        response = self.message_class("ImportResponse")

        def requests() -> Iterator[Any]:
            yield self.message("ImportRequest", header=self.message("ImportHeader", **header))
            for first in range(0, len(archive), piece):
                yield self.message("ImportRequest", data=archive[first:first + piece])

        stub = self.channel.stream_unary("/loci.v1.AdminService/ImportStore", lambda message: message.SerializeToString(), response.FromString)
        return stub(requests(), timeout=timeout)

    def import_encoder(self, name: str, folder: str, timeout: float = 120) -> Any:
        response = self.message_class("ImportEncoderResponse")

        def requests() -> Iterator[Any]:
            request = self.message("ImportEncoderRequest")
            request.header.name = name
            yield request
            for path in CHECKPOINT_FILES:
                if not os.path.exists(os.path.join(folder, path)):
                    continue
                with open(os.path.join(folder, path), "rb") as file:
                    while data := file.read(1 << 20):
                        yield self.message("ImportEncoderRequest", piece=self.message("EncoderFilePiece", path=path, data=data))

        stub = self.channel.stream_unary("/loci.v1.AdminService/ImportEncoder", lambda message: message.SerializeToString(), response.FromString)
        return stub(requests(), timeout=timeout)

    def health(self, service: str = "") -> int:
        stub = self.channel.unary_unary("/grpc.health.v1.Health/Check", lambda message: message.SerializeToString(),
                                        KNOWN["HealthCheckResponse"].FromString)
        return stub(KNOWN["HealthCheckRequest"](service=service), timeout=10).status


class _XmlResult(unittest.TextTestResult):
    """Remembers every case for Bazel's report."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cases: list[tuple[str, float]] = []
        self._start = 0.0

    def startTest(self, test: unittest.TestCase) -> None:
        self._start = time.monotonic()
        super().startTest(test)

    def stopTest(self, test: unittest.TestCase) -> None:
        self.cases.append((test.id(), time.monotonic() - self._start))
        super().stopTest(test)


def main() -> None:
    """unittest.main() that also writes $XML_OUTPUT_FILE, so that Bazel counts cases and not files."""
    faulthandler.enable()  # A crash in a C extension says where.
    program = unittest.main(module="__main__", exit=False, verbosity=2,
                            testRunner=unittest.TextTestRunner(resultclass=_XmlResult, verbosity=2))
    result = program.result
    if os.environ.get("XML_OUTPUT_FILE") and isinstance(result, _XmlResult):
        from xml.sax.saxutils import quoteattr

        failed = {test.id().split(" ")[0]: text for test, text in result.failures + result.errors}
        names = {name for name, _ in result.cases}
        lines = [f"<testsuites><testsuite name='integration' tests='{len(result.cases)}' failures='{len(failed)}'>"]
        for name, seconds in result.cases:
            failure = f"<failure message={quoteattr(failed[name])}/>" if name in failed else ""
            lines.append(f"<testcase name={quoteattr(name)} time='{seconds:.3f}'>{failure}</testcase>")
        for name in sorted(set(failed) - names):  # A class that could not be set up.
            lines.append(f"<testcase name={quoteattr(name)}><failure message={quoteattr(failed[name])}/></testcase>")
        with open(os.environ["XML_OUTPUT_FILE"], "w", encoding="utf-8") as file:
            file.write("\n".join(lines + ["</testsuite></testsuites>"]))
    sys.exit(0 if result.wasSuccessful() and result.testsRun > 0 else 1)


def delete_stores_and_stop(client: ReflectionClient, server: ServerProcess, stores: list[str]) -> None:
    """Of a test class that is done: its stores, where they are still there, its client, and the server, which must end well."""
    for store in stores:
        try:
            client.call("AdminService.DeleteStore", store=store, confirm_name=store)
        except grpc.RpcError:
            pass
    client.close()
    status = server.stop()
    assert status in (None, 0), f"the server ended with {status} after SIGTERM"
