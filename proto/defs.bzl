"""loci_proto_library: .proto files as a C++ library, made by the machine's protoc and gRPC plug-in.

    loci_proto_library(
        name = "retrieval_proto",
        srcs = ["loci/v1/retrieval.proto"],
        grpc = True,
        deps = [":common_proto"],
    )

`#include "proto/loci/v1/retrieval.pb.h"` and, with grpc = True, "proto/loci/v1/retrieval.grpc.pb.h". A .proto file imports another by
its path from the root of the repository: `import "proto/loci/v1/common.proto";`.
"""

def loci_proto_library(name, srcs, deps = [], grpc = False, visibility = None):
    """C++ code for .proto files. `deps` are other loci_proto_library targets, whose files `srcs` may import."""
    stems = [src[:-len(".proto")] for src in srcs]
    extensions = [".pb.h", ".pb.cc"] + ([".grpc.pb.h", ".grpc.pb.cc"] if grpc else [])

    native.filegroup(
        name = name + "_files",
        srcs = srcs + [dep + "_files" for dep in deps],
        visibility = visibility,
    )
    own_files = " ".join(["$(location {})".format(src) for src in srcs])
    plugin = "--plugin=protoc-gen-grpc=/usr/bin/grpc_cpp_plugin --grpc_out=$(GENDIR) " if grpc else ""
    native.genrule(
        name = name + "_protoc",
        srcs = srcs + [dep + "_files" for dep in deps],
        outs = [stem + extension for stem in stems for extension in extensions],
        cmd = "/usr/bin/protoc -I. --cpp_out=$(GENDIR) " + plugin + own_files,
        message = "Generating C++ from",
        visibility = ["//visibility:private"],
    )
    native.cc_library(
        name = name,
        srcs = [stem + extension for stem in stems for extension in extensions if extension.endswith(".cc")],
        hdrs = [stem + extension for stem in stems for extension in extensions if extension.endswith(".h")],
        copts = ["-w"],
        visibility = visibility,
        deps = deps + (["//:grpc"] if grpc else []) + ["//:protobuf"],
    )
