"""Compiles proto/loci into loci/protocol.binpb, which the package carries; everything else stands in pyproject.toml.

In a checkout that happens at every build; an archive of the sources (sdist) has the compiled file, and no protos.
"""

import pathlib
import subprocess
import sys

from setuptools import Command, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = HERE / "loci" / "protocol.binpb"
PROTOS = ["proto/loci/v1/admin.proto", "proto/loci/v1/retrieval.proto", "proto/loci/v1/training.proto", "proto/loci/rpc/status.proto"]


def build_protocol():
    if not (ROOT / PROTOS[0]).exists():
        if not TARGET.exists():
            sys.exit(f"neither {TARGET} nor {ROOT / PROTOS[0]} is there: build from a checkout, or from a source archive that was made in one")
        return
    # A process of its own: protoc changes its working directory's meaning, and ends the process where it fails.
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I.", "--include_imports", f"--descriptor_set_out={TARGET}", *PROTOS], cwd=ROOT, check=True)


class BuildProtocol(Command):
    description = "compile the protos into loci/protocol.binpb"
    user_options = []

    def initialize_options(self):
        pass

    def finalize_options(self):
        pass

    def run(self):
        build_protocol()


class BuildPy(build_py):
    def run(self):
        build_protocol()
        super().run()


class Sdist(sdist):
    def run(self):
        build_protocol()
        super().run()


setup(cmdclass={"build_protocol": BuildProtocol, "build_py": BuildPy, "sdist": Sdist})
