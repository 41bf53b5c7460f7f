"""What the package says where its compiled protos are not those that it is used with."""

from __future__ import annotations

import pathlib
import pkgutil
import tempfile
import unittest

from google.protobuf import descriptor_pb2
from loci import _protocol
from loci_server import main


def compiled():
    return descriptor_pb2.FileDescriptorSet.FromString(pkgutil.get_data("loci", "protocol.binpb")).file


def without(message, kind, name):
    """`message` without what has that name, at any depth."""
    for nested in getattr(message, kind, ()):
        if nested.name == name:
            getattr(message, kind).remove(nested)
            return True
    children = [child for part in ("service", "enum_type", "message_type", "nested_type") for child in getattr(message, part, ())]
    return any(without(child, kind, name) for child in children)


class ProtocolTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="loci_protos_")
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def test_compiled_protos_that_are_too_old_are_named(self):
        self.write("proto/loci/v1/admin.proto", """
// int32 gone = 3; of a comment
message Store {
  string store = 1;
  map<string, double> metrics = 2;
  repeated string pinned = 3;
}
enum JobState {
  JOB_STATE_RUNNING = 1;
}
service AdminService {
  rpc GetStore(GetStoreRequest) returns (GetStoreResponse);
}
""")
        file = descriptor_pb2.FileDescriptorProto(name="proto/loci/v1/admin.proto")
        store = file.message_type.add(name="Store")
        for name in ("store", "metrics", "pinned"):
            store.field.add(name=name)
        file.enum_type.add(name="JobState").value.add(name="JOB_STATE_RUNNING", number=1)
        file.service.add(name="AdminService").method.add(name="GetStore")
        _protocol._check_age([file], self.root)
        for kind, name in (("field", "metrics"), ("value", "JOB_STATE_RUNNING"), ("method", "GetStore")):
            old = descriptor_pb2.FileDescriptorProto.FromString(file.SerializeToString())
            self.assertTrue(without(old, kind, name))
            with self.assertRaisesRegex(ImportError, f"admin.proto: it does not know {name}. .*setup.py build_protocol"):
                _protocol._check_age([old], self.root)

    def test_an_installed_package_has_no_protos_beside_it(self):
        _protocol._check_age(compiled(), self.root)

    def test_all_that_the_real_protos_declare_is_found(self):
        checked = 0
        for file in compiled():
            if not file.name.startswith("proto/loci/"):
                continue
            # As protoc would print it: each field, value and method in a line of its own.
            lines = [f"  int32 {name} = 1;" for name in sorted(_protocol._names(file))]
            self.write(file.name, "\n".join(lines))
            checked += len(lines)
        self.assertGreater(checked, 300)
        _protocol._check_age(compiled(), self.root)


if __name__ == "__main__":
    main()
