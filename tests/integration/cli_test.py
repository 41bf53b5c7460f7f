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


def make_pdf(pages):
    """A PDF with one line of text a page."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Count {len(pages)} /Kids [{kids}] >>",
               "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    for text in pages:
        stream = f"BT /F 12 Tf 50 700 Td ({text}) Tj ET"
        objects.append("<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Resources << /Font << /F 3 0 R >> >> "
                       f"/Contents {len(objects) + 2} 0 R >>")
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    pdf, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(pdf))
        pdf += f"{number} 0 obj\n{content}\nendobj\n".encode()
    rows = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    return pdf + f"xref\n0 {size}\n0000000000 65535 f \n{rows}trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{len(pdf)}\n%%EOF\n".encode()


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

    def test_a_folder_of_documents_is_cut_into_passages_that_answer(self):
        guide = "# Boiler\n\nIt stands upright.\n\n## Power\n\nThe boiler needs a fuse of 16 amperes.\n"
        filler = " ".join(f"Remark {i} tells nothing of interest to anybody." for i in range(200))
        for name, content in {
                "docs/a/guide.md": guide,
                "docs/page.html.gz": gzip.compress(b"<title>Elements</title><h1>Radium</h1><script>no();</script>"
                                                   b"<p>Radium was discovered by Marie Curie.</p>" + filler.encode()),
                "docs/report.pdf": make_pdf(["The revenue was 12 million euros.", "The company employs 85 people in Lisbon."]),
                "docs/wide.txt": "Penguins live in the southern hemisphere.".encode("utf-16"),
                "docs/latin.txt": b"caf\xe9",
                "docs/broken.pdf": b"%PDF-1.4 and no more",
                "docs/picture.png": b"x"}.items():
            os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
            self.write(name, content)
        args = ("ingest", "cli-d", self.path("docs"), "--chunk-tokens", "48", "--overlap-tokens", "16")
        out, err = self.loci(*args, status=1)
        self.assertIn("2 lines or documents were not taken", err)
        self.assertIn("latin.txt:1: not valid UTF-8 at byte 4", err)
        self.assertIn("broken.pdf:1: pdftotext can't read it: Syntax", err)
        self.assertIn("picture.png is passed over", err)
        for question, answer, document in (
                ("What fuse does the boiler need?", "The boiler needs a fuse of 16 amperes.", "a/guide.md"),
                ("Who discovered radium?", "Radium was discovered by Marie Curie.", "page.html.gz"),
                ("How many people does the company employ?", "The company employs 85 people in Lisbon.", "report.pdf"),
                ("Where do penguins live?", "Penguins live in the southern hemisphere.", "wide.txt")):
            response = self.json("ask", "cli-d", question)
            self.assertEqual(response["answers"][0]["text"], answer, question)
            self.assertEqual(response["passages"][0]["passage"]["document_id"], document)
        passages = {hit["id"]: hit["passage"] for hit in self.json("search", "cli-d", "boiler", "--top-k", "1000")["results"][0]["hits"]}
        self.assertEqual({f"page.html.gz#{i}" for i in range(20)} - passages.keys(), set())
        self.assertEqual(passages["a/guide.md#1"]["title"], "Boiler > Power")
        metadata = passages["a/guide.md#1"]["metadata"]
        start, end = (int(metadata[key]["int64_value"]) for key in ("start_byte", "end_byte"))
        self.assertEqual(guide[start:end], passages["a/guide.md#1"]["text"])
        self.assertEqual(passages["report.pdf#1"]["metadata"]["page"], {"int64_value": "2"})
        # Again: nothing is encoded. By choice a bad document ends it, and what was there stays.
        again = self.json(*args, "--skip-errors")
        self.assertEqual(again["reused_count"], again["passage_count"])
        self.assertIn("nothing was ingested", self.loci(*args, "--bad-lines", "fail", status=1)[1])
        self.assertEqual(self.json("get", "stores", "cli-d")["store"]["generation"], again["generation"])

    def test_an_ingest_that_is_not_waited_for_is_watched(self):
        job = self.json("ingest", "cli-j", self.path("corpus.jsonl.gz"), "--no-wait")["job"]
        watched = self.json("watch", job)
        self.assertEqual((watched["state"], watched["ingest"]["passage_count"]), ("JOB_STATE_SUCCEEDED", str(len(CORPUS))))
        self.assertIn("SUCCEEDED", self.loci("get", "jobs", "cli-j")[0])
        self.assertEqual(self.json("get", "jobs", "cli-j", "--state", "failed")["jobs"], [])
        self.assertIn("JOB_FINISHED", self.loci("cancel", job, status=1)[1])
        self.assertIn("JOB_NOT_FOUND", self.loci("watch", "absent", status=1)[1])
        path = self.write("twice.jsonl", '{"id": "a", "text": "one"}\n\n{"id": "a", "text": "two"}\n')
        self.assertIn("twice.jsonl:3: ", self.loci("ingest", "cli-j", path, "--duplicates", "fail", status=1)[1])
        self.assertEqual(self.json("ingest", "cli-j", path, "--duplicates", "skip")["duplicate_count"], "1")
        self.assertEqual(self.json("get", "passages", "cli-j", "a")["passages"][0]["text"], "one")

    def test_filters(self):
        lines = [{"id": f"p{year}", "text": f"A passage of {year}.", "metadata": {"year": year, "draft": year % 2 == 0, "tags": [f"t{year % 3}"]}}
                 for year in range(2000, 2010)]
        self.json("ingest", "cli-f", self.write("filters.jsonl", "".join(json.dumps(line) + "\n" for line in lines)))
        found = self.json("search", "cli-f", "a passage", "--filter", "year >= 2004 and not draft and 't0' in tags")
        expected = {line["id"] for line in lines if line["metadata"]["year"] >= 2004 and line["metadata"]["year"] % 2 and line["metadata"]["year"] % 3 == 0}
        self.assertEqual({hit["id"] for hit in found["results"][0]["hits"]}, expected)
        self.assertEqual(found["match_count"], str(len(expected)))
        self.assertIn("timings", found)
        out, _ = self.loci("search", "cli-f", "a passage", "--filter", "year = 2003")
        self.assertRegex(out, r"exact, 1 passages match the filter")
        out, _ = self.loci("ask", "cli-f", "Which passage?", "--filter", "year = 2003", "--top-k", "3")
        self.assertIn("p2003", out)
        self.assertNotIn("p2004", out)
        report = self.json("bench", "cli-f", "--queries", self.path("queries.jsonl"), "--duration", "200ms", "--filter", "year < 2005")
        self.assertEqual(report["failed"], 0)
        out, _ = self.loci("search", "--help")
        self.assertIn("source in", out)

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
                (("search", "cli-r", "x", "--filter", "a = "), 1, "INVALID_ARGUMENT"),
                (("search", "absent", "x"), 1, "NOT_FOUND"),
                (("search", "cli-r", "x", "--nprobe", "4"), 1, "INVALID_ARGUMENT"),
                (("search", "cli-r", "x", "--rescore-factor", "4"), 1, "INVALID_ARGUMENT"),
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
