"""The repository @faiss: the source that deploy/fetch_faiss.sh unpacked into the user's cache folder, with our BUILD file."""

_VERSION = "1.7.3"

def _faiss_repository_impl(ctx):
    cache = ctx.os.environ.get("XDG_CACHE_HOME") or ctx.os.environ.get("HOME", "/root") + "/.cache"
    source = ctx.path(cache + "/loci/faiss-" + _VERSION)
    if not source.get_child(".complete").exists:
        fail("FAISS {} is not in {}: run deploy/setup.sh".format(_VERSION, source))
    ctx.symlink(source.get_child("faiss"), "faiss")
    ctx.symlink(source.get_child("LICENSE"), "LICENSE")
    ctx.symlink(ctx.attr._build_file, "BUILD")

faiss_repository = repository_rule(
    implementation = _faiss_repository_impl,
    attrs = {"_build_file": attr.label(default = "//deploy/bazel:faiss.BUILD")},
    environ = ["HOME", "XDG_CACHE_HOME"],
    local = True,
)
