"""The command line against a server, both as built ($LOCI_CLI_BINARY, $LOCI_SERVER_BINARY)."""

import gzip
import json
import math
import os
import subprocess
import tempfile
import unittest

from loci_server import ServerProcess, main

CORPUS = {
    "sky": ("The sky", "The sky is blue because air scatters short wavelengths of sunlight more than long ones."),
    "pdf": ("poppler-utils", "PDF utilities: pdftotext converts a PDF document into plain text."),
    "bread": ("Baking", "Bread rises because yeast turns sugar into carbon dioxide, which is trapped by gluten."),
    "moon": ("Apollo 11", "Neil Armstrong was the first person to walk on the Moon, on 20 July 1969."),
    "heart": ("Anatomy", "The human heart has four chambers: two atria and two ventricles."),
    "whale": ("Whales", "The blue whale is the largest animal that has ever lived. It weighs up to 190 tonnes."),
}
QUERIES = {
    "q1": ("Which program turns a PDF into text?", {"pdf": 2, "bread": 1}),
    "q2": ("Who first set foot on the lunar surface?", {"moon": 1, "sky": 0}),
    "q3": ("colours and light", {"sky": 1, "whale": 2, "heart": 1, "pdf": -1}),
    "q4": ("not judged relevant", {"heart": 0}),
}


def metrics(ranking, grades):
    """nDCG@10, recall@10 and MRR@10 by their definitions, independent of the implementation under test."""
    def dcg(gains):
        return sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains[:10]))

    relevant = {document for document, grade in grades.items() if grade > 0}
    gains = [max(0, grades.get(document, 0)) for document in ranking]
    ndcg = dcg(gains) / dcg(sorted((grade for grade in grades.values() if grade > 0), reverse=True))
    mrr = next((1 / (rank + 1) for rank, document in enumerate(ranking[:10]) if document in relevant), 0)
    return ndcg, len(relevant & set(ranking[:10])) / len(relevant), mrr


class CliTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory(prefix="loci_cli_")
        cls.server = ServerProcess()
        cls.write("corpus.jsonl.gz", gzip.compress("".join(
            json.dumps({"_id": key, "title": title, "text": text, "metadata": {"n": 1}}) + "\n" for key, (title, text) in CORPUS.items()).encode()))
        cls.write("queries.jsonl", "".join(json.dumps({"_id": key, "text": text}) + "\n" for key, (text, _) in QUERIES.items()))
        cls.write("qrels.tsv", "query-id\tcorpus-id\tscore\n" + "".join(
            f"{query}\t{document}\t{grade}\n" for query, (_, grades) in QUERIES.items() for document, grade in grades.items()))

    @classmethod
    def tearDownClass(cls):
        cls.directory.cleanup()
        status = cls.server.stop()
        assert status in (None, 0), f"the server ended with {status} after SIGTERM"

    @classmethod
    def path(cls, name):
        return os.path.join(cls.directory.name, name)

    @classmethod
    def write(cls, name, content):
        with open(cls.path(name), "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        return cls.path(name)

    def loci(self, *args, status=0, stdin=""):
        """Runs the command and returns (standard output, standard error)."""
        result = subprocess.run([os.environ["LOCI_CLI_BINARY"], *args], input=stdin, capture_output=True, text=True, timeout=120,
                                env={**os.environ, "LOCI_SERVER": self.server.address})
        self.assertEqual(result.returncode, status, f"{args}\n{result.stdout}\n{result.stderr}")
        return result.stdout, result.stderr

    def json(self, *args, status=0, stdin=""):
        return json.loads(self.loci(*args, "-o", "json", status=status, stdin=stdin)[0])

    def make_store(self, name):
        response = self.json("ingest", name, self.path("corpus.jsonl.gz"))
        self.assertEqual((response["done"], response["accepted_count"], response["rejected_count"]), (True, str(len(CORPUS)), "0"))
        return response["generation"]

    def test_ingest_search_ask_get(self):
        generation = self.make_store("cli-a")
        found = self.json("search", "cli-a", QUERIES["q1"][0], "--top-k", "2")
        self.assertEqual([found["generation"], found["results"][0]["hits"][0]["id"]], [generation, "pdf"])
        self.assertEqual(found["results"][0]["hits"][0]["passage"]["metadata"], {"n": {"int64_value": "1"}})
        self.assertIn("poppler-utils", self.loci("search", "cli-a", QUERIES["q1"][0])[0])
        answer = self.json("ask", "cli-a", "Who was the first person to walk on the Moon?")["answers"][0]
        self.assertEqual(answer["text"], CORPUS["moon"][1])
        self.assertIn(CORPUS["moon"][1], self.loci("ask", "cli-a", "Who was the first person to walk on the Moon?")[0])
        self.assertEqual(self.json("get", "passages", "cli-a", "sky")["passages"][0]["text"], CORPUS["sky"][1])
        self.assertIn("cli-a", [store["store"] for store in self.json("get", "stores")["stores"]])
        self.assertIn(generation, self.loci("get", "generations", "cli-a")[0])
        self.assertIn("cpu", self.loci("get", "server")[0])
        self.assertEqual(self.json("encode", "a", "b")["vectors"]["rows"], "2")
        self.assertIn("is whole", self.loci("verify", "cli-a")[0])

    def test_bad_lines_are_told_and_good_ones_taken(self):
        path = self.write("bad.jsonl", b'{"id": "a", "text": "one"}\nnot json\n{"id": "b", "text": "\xff"}\n{"id": "c", "text": "two"}\n')
        out, err = self.loci("ingest", "cli-bad", path, status=1)
        self.assertIn("bad.jsonl:2: ", err)
        self.assertIn("bad.jsonl:3: not valid UTF-8", err)
        self.assertEqual(self.json("get", "stores", "cli-bad")["store"]["passage_count"], "2")
        # A text beyond the server's limit: the server counts passages, the message names the line.
        path = self.write("long.jsonl", 'broken\n{"id": "a", "text": "one"}\n' + json.dumps({"id": "b", "text": "x " * (1 << 20)}) + "\n")
        out, err = self.loci("ingest", "cli-bad", path, status=1)
        self.assertIn("long.jsonl:3: id b: ", err)
        # A damaged file leaves what is there.
        cut = self.write("cut.jsonl.gz", gzip.compress(b"".join(b'{"id": "%d", "text": "t"}\n' % i for i in range(5000)))[:-9])
        self.assertIn("nothing was ingested", self.loci("ingest", "cli-bad", cut, status=1)[1])
        self.assertEqual(self.json("get", "stores", "cli-bad")["store"]["passage_count"], "1")

    def test_upsert_and_delete(self):
        self.make_store("cli-w")
        self.assertEqual(self.json("upsert", "cli-w", "-", stdin="cat\tCats purr when they are content.\tCats\n")["upserted_count"], "1")
        self.assertEqual(self.json("search", "cli-w", "noise that a kitten makes")["results"][0]["hits"][0]["id"], "cat")
        self.assertEqual(self.json("delete", "passages", "cli-w", "cat", "absent")["deleted_count"], "1")
        self.assertNotIn("cat", [hit["id"] for hit in self.json("search", "cli-w", "kitten", "--top-k", "100")["results"][0]["hits"]])
        self.assertEqual(self.json("ingest", "cli-w", "-", "--mode", "upsert", stdin='{"id": "dog", "text": "Dogs bark."}\n')["accepted_count"], "1")
        self.assertEqual(self.json("get", "stores", "cli-w")["store"]["passage_count"], str(len(CORPUS) + 1))
        self.loci("delete", "store", "cli-w", status=2)
        self.loci("delete", "store", "cli-w", "--confirm", "cli-w")
        out, err = self.loci("get", "stores", "cli-w", status=1)
        self.assertRegex(err, r"^error: NOT_FOUND: .*cli-w.*reason STORE_NOT_FOUND")

    def test_activate(self):
        first = self.make_store("cli-g")
        path = self.write("one.tsv", "id\ttext\ttitle\nonly\tOne passage.\tT\n")
        second = self.json("ingest", "cli-g", path, "--no-activate")["generation"]
        self.loci("activate", "cli-g", second, "--dry-run")
        self.assertEqual(self.json("get", "stores", "cli-g")["store"]["generation"], first)
        self.assertEqual(self.json("activate", "cli-g", second)["previous_generation"], first)
        self.assertEqual(self.json("get", "stores", "cli-g")["store"]["generation"], second)
        self.loci("delete", "generation", "cli-g", second, status=1)
        self.loci("delete", "generation", "cli-g", first)
        self.assertEqual(len(self.json("get", "generations", "cli-g")["generations"]), 1)

    def test_eval_agrees_with_an_independent_computation(self):
        self.make_store("cli-e")
        report = self.json("eval", "cli-e", "--queries", self.path("queries.jsonl"), "--qrels", self.path("qrels.tsv"))
        judged = [query for query, (_, grades) in QUERIES.items() if max(grades.values()) > 0]
        expected = [0.0, 0.0, 0.0]
        for query in judged:
            hits = self.json("search", "cli-e", QUERIES[query][0], "--top-k", "100")["results"][0]["hits"]
            for i, value in enumerate(metrics([hit["id"] for hit in hits], QUERIES[query][1])):
                expected[i] += value / len(judged)
        self.assertEqual(report["query_count"], 3)
        for key, value in zip(("ndcg_at_10", "recall_at_10", "mrr_at_10"), expected):
            self.assertAlmostEqual(report[key], value, places=12)
        self.assertEqual(report["recall_at_100"], 1)

    def test_bench(self):
        self.make_store("cli-b")
        report = self.json("bench", "cli-b", "--queries", self.path("queries.jsonl"), "--duration", "500ms", "--concurrency", "4")
        self.assertGreater(report["succeeded"], 0)
        self.assertEqual(report["failed"], 0)
        self.assertLessEqual(report["p50_us"], report["max_us"])

    def test_what_is_refused(self):
        self.make_store("cli-r")
        for args, status, code in (
                (("search", "cli-r", ""), 1, "INVALID_ARGUMENT"),
                (("search", "cli-r", "x", "--filter", "a = 1"), 1, "UNIMPLEMENTED"),
                (("search", "absent", "x"), 1, "NOT_FOUND"),
                (("search", "cli-r", "x", "--nprobe", "4"), 1, "INVALID_ARGUMENT"),
                (("rollback", "cli-r"), 1, "FAILED_PRECONDITION"),
                (("plan", "cli-r", "g"), 1, "NOT_FOUND"),
                (("compare", "cli-r", "a", "b", "--queries", self.path("queries.jsonl")), 1, "NOT_FOUND"),
                (("ingest", "cli-r", self.path("corpus.jsonl.gz"), "--index", "Nonsense"), 1, "INVALID_ARGUMENT"),
                (("get", "stores", "--server", "127.0.0.1:1"), 3, "UNAVAILABLE"),
        ):
            out, err = self.loci(*args, status=status)
            self.assertEqual(out, "", args)
            self.assertTrue(err.splitlines()[-1 if status == 1 else 0].startswith(f"error: {code}: "), f"{args}: {err}")


if __name__ == "__main__":
    main()
