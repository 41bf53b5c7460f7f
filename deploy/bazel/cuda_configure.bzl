"""The repository @local_cuda: the CUDA toolkit of this machine, or stand-ins where there is none.

nvcc is looked for in $CUDA_HOME, /usr/local/cuda and $PATH. Targets:
  :enabled        config_setting, true where nvcc was found. `--@local_cuda//:present=false` turns CUDA off.
  :headers        cc_library with the toolkit's headers (cuda_runtime_api.h, cublas_v2.h, ...).
  :cudart_static  cc_library that links the CUDA runtime statically; needs no driver to start.
  :cublas         cc_library that links cuBLAS and cuBLASLt dynamically, with the toolkit's folder as run path.
Where there is no toolkit these libraries exist and are empty, so that a select() is the only thing a caller writes.
"""

_FLAG_BZL = """
def _bool_flag_impl(ctx):
    return []

bool_flag = rule(implementation = _bool_flag_impl, build_setting = config.bool(flag = True))
"""

_COMMON_BUILD = """
load(":flag.bzl", "bool_flag")

package(default_visibility = ["//visibility:public"])

bool_flag(name = "present", build_setting_default = {found})

config_setting(name = "enabled", flag_values = {{":present": "True"}})
"""

_FOUND_BUILD = """
cc_library(
    name = "headers",
    hdrs = glob(["include/**"]),
    includes = ["include"],
)

cc_library(
    name = "cudart_static",
    srcs = ["lib64/libcudart_static.a"],
    linkopts = ["-ldl", "-lrt", "-lpthread"],
    deps = [":headers"],
)

cc_library(
    name = "cublas",
    linkopts = ["-L{lib}", "-Wl,-rpath,{lib}", "-lcublas", "-lcublasLt"],
    deps = [":headers"],
)
"""

_MISSING_BUILD = """
cc_library(name = "headers")

cc_library(name = "cudart_static")

cc_library(name = "cublas")
"""

def _find_toolkit(ctx):
    candidates = []
    if ctx.os.environ.get("CUDA_HOME"):
        candidates.append(ctx.path(ctx.os.environ["CUDA_HOME"]))
    candidates.append(ctx.path("/usr/local/cuda"))
    on_path = ctx.which("nvcc")
    if on_path:
        candidates.append(on_path.realpath.dirname.dirname)
    for folder in candidates:
        if folder.get_child("bin").get_child("nvcc").exists and folder.get_child("lib64").get_child("libcudart_static.a").exists:
            return folder
    return None

def _cuda_configure_impl(ctx):
    toolkit = _find_toolkit(ctx)
    ctx.file("flag.bzl", _FLAG_BZL)
    build = _COMMON_BUILD.format(found = toolkit != None)
    nvcc = ""
    version = ""
    if toolkit:
        nvcc = str(toolkit.get_child("bin").get_child("nvcc"))
        version = ctx.execute([nvcc, "--version"]).stdout.strip().split("\n")[-1]
        ctx.symlink(toolkit.get_child("include"), "include")
        ctx.symlink(toolkit.get_child("lib64"), "lib64")
        build += _FOUND_BUILD.format(lib = toolkit.get_child("lib64"))
    else:
        build += _MISSING_BUILD
    ctx.file("BUILD", build)
    ctx.file("toolkit.bzl", 'NVCC = "{}"\nNVCC_VERSION = "{}"\n'.format(nvcc, version))

cuda_configure = repository_rule(
    implementation = _cuda_configure_impl,
    environ = ["CUDA_HOME", "PATH"],
    local = True,
)
