"""The messages and methods of loci.v1, from the compiled descriptors that the package carries.

`protocol.binpb` is a FileDescriptorSet of proto/loci, made when the package is built. Unlike generated code it is tied to no release of
protobuf; the pool is the package's own, so that nothing else registered in the process can clash with it.
"""

from __future__ import annotations

import functools
import pathlib
import pkgutil
import re
import reprlib
from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICES = ("RetrievalService", "AdminService", "TrainingService")


_BUILD = "install the package (pip install ./clients/python), or in a checkout run `python setup.py build_protocol` in clients/python"
# A field, value or method as a line of a .proto declares it.
_DECLARATION = re.compile(r"^\s*(?:rpc (\w+)\(|(?:[\w.<>, ]+ )?(\w+) = \d+)", re.MULTILINE)


def _names(described: Any) -> set[str]:
    """Of all fields, values and methods in a FileDescriptorProto or a DescriptorProto."""
    names = {field.name for kind in ("field", "value") for field in getattr(described, kind, ())}
    for kind in ("service", "enum_type", "message_type", "nested_type"):
        for nested in getattr(described, kind, ()):
            names |= {method.name for method in nested.method} if kind == "service" else _names(nested)
    return names


def _check_age(files: Any, root: pathlib.Path) -> None:
    """ImportError where the protos under `root`, of a checkout (elsewhere none are there), declare what `files` do not know."""
    for file in files:
        path = root / file.name
        if not path.is_file():
            continue
        declared = {first or second for first, second in _DECLARATION.findall(path.read_text(encoding="utf-8"))}
        unknown = sorted(declared - _names(file))
        if unknown:
            raise ImportError(f"loci/protocol.binpb is older than {path}: it does not know {', '.join(unknown[:3])}. To build it anew, {_BUILD}")


def _load() -> tuple[descriptor_pool.DescriptorPool, dict[str, Any]]:
    try:
        data = pkgutil.get_data(__package__, "protocol.binpb")
    except OSError as error:
        raise ImportError(f"loci/protocol.binpb is missing: the package was not built. To build it, {_BUILD}") from error
    files = descriptor_pb2.FileDescriptorSet.FromString(data)
    above = pathlib.Path(__file__).resolve().parents
    if len(above) > 3:  # A checkout's root.
        _check_age(files.file, above[3])
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.AddSerializedFile(file.SerializeToString())
    classes: dict[str, Any] = {}

    def add(descriptors: Any) -> None:
        for descriptor in descriptors:
            classes[descriptor.full_name] = message_factory.GetMessageClass(descriptor)
            add(descriptor.nested_types)

    # All of them now: making classes is not thread-safe in every release of protobuf.
    for file in files.file:
        add(pool.FindFileByName(file.name).message_types_by_name.values())
    return pool, classes


_POOL, _CLASSES = _load()


class Method:
    """How a method is called: its path, kind and message classes. Immutable."""

    def __init__(self, service: str, descriptor: Any) -> None:
        self.name = descriptor.name
        self.full_name = f"{service}.{descriptor.name}"
        self.path = f"/loci.v1.{service}/{descriptor.name}"
        self.request = _CLASSES[descriptor.input_type.full_name]
        self.response = _CLASSES[descriptor.output_type.full_name]


METHODS = {
    f"{service}.{descriptor.name}": Method(service, descriptor)
    for service in SERVICES
    for descriptor in _POOL.FindServiceByName(f"loci.v1.{service}").methods
}


def message_class(name: str) -> Any:
    """The class of a message of loci.v1."""
    return _CLASSES["loci.v1." + name]


def message(name: str, **fields: Any) -> Any:
    """A message of loci.v1."""
    return fill(_CLASSES["loci.v1." + name], fields)


def fill(kind: Any, fields: Mapping[str, Any]) -> Any:
    """A message of a class. TypeError or ValueError names the field that can't hold what it was given."""
    try:
        return kind(**fields)
    except (TypeError, ValueError):
        for name, value in fields.items():
            try:
                kind(**{name: value})
            except (TypeError, ValueError) as error:
                raised = TypeError if isinstance(error, TypeError) else ValueError
                raise raised(f"{name} is {reprlib.repr(value)}: {error}") from None
        raise


STATUS: Any = _CLASSES["loci.rpc.Status"]
ERROR_INFO: Any = _CLASSES["loci.rpc.ErrorInfo"]


_PREFIXES = {"VectorType": "VECTOR_TYPE_", "TextRole": "TEXT_ROLE_", "Truncation": "TRUNCATION_", "Estimator": "ESTIMATOR_", "IngestMode": "INGEST_MODE_",
             "WritesSince": "WRITES_SINCE_", "LinePolicy": "LINE_POLICY_", "GenerationState": "GENERATION_STATE_", "JobState": "JOB_STATE_",
             "ActivationStrategy": "ACTIVATION_STRATEGY_", "EncoderHalves": "ENCODER_HALVES_"}


@functools.cache
def _numbers(enum: str) -> dict[str, int]:
    prefix = _PREFIXES[enum]
    return {value.name[len(prefix):]: value.number for value in _POOL.FindEnumTypeByName("loci.v1." + enum).values}


def enum_number(enum: str, value: str | None, argument: str) -> int:
    """The number of "exact_z" or "EXACT_Z" in an enum; 0, the server's default, for None. ValueError names `argument` and what it can be."""
    if value is None:
        return 0
    number = _numbers(enum).get(str(value).upper().replace("-", "_"))
    if number is None:
        raise ValueError(f"{argument} is {value!r}, not one of {', '.join(name for name, number in _numbers(enum).items() if number)}")
    return number


def enum_name(enum: str, number: int) -> str:
    """The name of a value without its prefix; of one that this client does not know, its number."""
    return next((name for name, value in _numbers(enum).items() if value == number), str(number))
