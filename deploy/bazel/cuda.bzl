"""cuda_library: CUDA sources compiled by nvcc, usable as a dependency of cc_* targets.

    cuda_library(
        name = "gemm_cuda",
        srcs = ["gemm_cuda.cu"],
        hdrs = ["gemm.h"],
        deps = ["//base:cuda"],
    )

    cc_library(
        name = "gemm",
        srcs = select({
            "@local_cuda//:enabled": [],
            "//conditions:default": ["gemm_no_cuda.cc"],
        }),
        deps = select({
            "@local_cuda//:enabled": [":gemm_cuda"],
            "//conditions:default": [],
        }),
    )

A cuda_library is only built where something depends on it, so it must stand behind such a select(). The headers of `hdrs`
and of all `deps` are inputs of the compile: a change in any of them recompiles. The toolkit's own headers are covered by its version.
"""

load("@local_cuda//:toolkit.bzl", "NVCC", "NVCC_VERSION")

# What runs on Ampere and Hopper, with PTX for what comes after.
DEFAULT_GENCODE = [
    "arch=compute_80,code=sm_80",
    "arch=compute_90,code=[sm_90,compute_90]",
]

# A fifth to a tenth of the size. Drivers that serve CUDA 13 can read it.
def _compression():
    major = NVCC_VERSION.partition("cuda_")[2].partition(".")[0]
    return ["--compress-mode=size"] if major.isdigit() and int(major) >= 13 else []

def _cuda_objects_impl(ctx):
    if not NVCC:
        fail("no nvcc was found on this machine; put {} behind select() on @local_cuda//:enabled".format(ctx.label))
    context = cc_common.merge_cc_infos(cc_infos = [dep[CcInfo] for dep in ctx.attr.deps]).compilation_context
    objects = []
    for source in ctx.files.srcs:
        if source.extension != "cu":
            fail("{}: {} is not a .cu file".format(ctx.label, source.path))
        out = ctx.actions.declare_file("{}_objects/{}.pic.o".format(ctx.label.name, source.basename[:-3]))
        args = ctx.actions.args()
        args.add_all(["-c", source.path, "-o", out.path])
        args.add_all(["-std=c++20", "-O2", "-lineinfo", "--expt-relaxed-constexpr", "-DNDEBUG"])
        args.add_all(_compression())
        args.add_all(ctx.attr.gencode, before_each = "-gencode")
        args.add_all(["-Xcompiler", "-fPIC,-march=x86-64-v3,-Wall"])
        args.add_all(["-I.", "-I" + ctx.bin_dir.path])
        args.add_all(context.quote_includes, format_each = "-I%s")
        args.add_all(context.includes, format_each = "-I%s")
        args.add_all(context.system_includes, format_each = "-isystem=%s")
        args.add_all(context.defines, format_each = "-D%s")
        args.add_all(ctx.attr.copts)
        ctx.actions.run(
            executable = NVCC,
            arguments = [args],
            inputs = depset([source] + ctx.files.hdrs, transitive = [context.headers]),
            outputs = [out],
            env = {"PATH": "/usr/bin:/bin", "LOCI_NVCC_VERSION": NVCC_VERSION},
            mnemonic = "CudaCompile",
            progress_message = "Compiling {} with nvcc".format(source.short_path),
        )
        objects.append(out)
    return [DefaultInfo(files = depset(objects))]

_cuda_objects = rule(
    implementation = _cuda_objects_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = True),
        "hdrs": attr.label_list(allow_files = True),
        "deps": attr.label_list(providers = [CcInfo]),
        "copts": attr.string_list(),
        "gencode": attr.string_list(default = DEFAULT_GENCODE),
    },
)

def cuda_library(name, srcs, hdrs = [], deps = [], copts = [], gencode = DEFAULT_GENCODE, visibility = None, testonly = False):
    """CUDA sources as a library; see the top of this file."""
    _cuda_objects(
        name = name + "_nvcc",
        srcs = srcs,
        hdrs = hdrs,
        copts = copts,
        gencode = gencode,
        tags = ["manual"],
        testonly = testonly,
        visibility = ["//visibility:private"],
        deps = deps,
    )
    native.cc_library(
        name = name,
        srcs = [":" + name + "_nvcc"],
        hdrs = hdrs,
        tags = ["manual"],
        testonly = testonly,
        visibility = visibility,
        deps = deps + ["@local_cuda//:cudart_static"],
    )
