"""Tests in Python: a client against the built server, in the environment that deploy/setup.sh --test makes."""

def loci_python_test(name, cli = False, data = [], **kwargs):
    """NAME.py, with the server's binary in $LOCI_SERVER_BINARY (see loci_server.py).

    Args:
      name: of the test, and of its source.
      cli: whether it needs $LOCI_CLI_BINARY too.
      data: other files that it reads.
      **kwargs: of sh_test.
    """
    native.sh_test(
        name = name,
        srcs = ["//tests/integration:run_python_test.sh"],
        args = ["%s/%s.py" % (native.package_name(), name), "server/loci_server"] + (["clients/cli/loci"] if cli else []),
        data = [
            name + ".py",
            "//:default_encoder",
            "//server:loci_server",
            "//tests/integration:loci_server.py",
        ] + (["//clients/cli:loci"] if cli else []) + data,
        **kwargs
    )
