"""Fuzz targets: each runs as an ordinary test over its corpus, and under libFuzzer by hand."""

load("@rules_cc//cc:defs.bzl", "cc_test")

def loci_fuzz_test(name, srcs, corpus, deps = [], mutations = 200, data = [], **kwargs):
    """A libFuzzer target as a test over a fixed corpus and seeded mutations of it.

    Args:
      name: of the test.
      srcs: define LLVMFuzzerTestOneInput.
      corpus: the input files, e.g. glob(["corpus/tokenizer/**"]).
      deps: of srcs.
      mutations: how many mutations of each corpus file are tried.
      data: other files that the target reads.
      **kwargs: of cc_test.

    With --config=fuzz it is libFuzzer's own program instead: tests/fuzz/fuzz.sh.
    """
    native.filegroup(
        name = name + "_corpus",
        srcs = corpus,
    )
    cc_test(
        name = name,
        srcs = srcs,
        args = [
            "--mutations=%d" % mutations,
            "$(rootpaths :%s_corpus)" % name,
        ],
        data = data + [":%s_corpus" % name],
        tags = ["asan"] + kwargs.pop("tags", []),
        deps = deps + select({
            "//tests/fuzz:with_libfuzzer": [],
            "//conditions:default": ["//tests/fuzz:corpus_main"],
        }),
        linkopts = select({
            "//tests/fuzz:with_libfuzzer": ["-fsanitize=fuzzer"],
            "//conditions:default": [],
        }),
        **kwargs
    )
