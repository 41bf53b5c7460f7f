"""The examples of the package's README run as they stand, but for the server's address and the model's place."""

from __future__ import annotations

import os
import re
import tempfile
import unittest

from loci_server import ServerProcess, main

README = "clients/python/README.md"


class ReadmeTest(unittest.TestCase):
    def test_examples_run(self):
        with open(README, encoding="utf-8") as file:
            blocks = re.findall(r"(?:^    .*\n|^\n)+", file.read(), re.MULTILINE)
        examples = [re.sub("^    ", "", block, flags=re.MULTILINE) for block in blocks if "import loci" in block]
        self.assertEqual(len(examples), 3)
        model = os.environ.get("LOCI_MODEL_DIR", "models/all-MiniLM-L6-v2")
        server = ServerProcess()
        with tempfile.TemporaryDirectory(prefix="loci_readme_") as folder:
            for example in examples:
                for written, meant in (("127.0.0.1:7440", server.address), ("models/all-MiniLM-L6-v2", model), ("/tmp/loci-mine", folder + "/mine")):
                    example = example.replace(written, meant)
                with self.subTest(example=example):
                    exec(compile(example, README, "exec"), {})
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    main()
