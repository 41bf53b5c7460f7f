"""loci.torch.BertEncoder against transformers' vectors, and against the server that runs what it exports."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import struct
import tempfile
import unittest

import grpc
import numpy as np
import torch
from loci_server import ReflectionClient, ServerProcess, delete_stores_and_stop, main
from torch import nn

import loci
import loci.torch
from loci.torch import BertConfig, BertEncoder, safetensors

MODEL = os.environ.get("LOCI_MODEL_DIR", "models/all-MiniLM-L6-v2")
TEXTS = ["", " ", "a", "radium", "Which package turns PDF into text?", "\u6f22\u5b57 \U0001f600 na\u00efve", "x" * 400, "the " * 30, "some words, " * 60,
         "the " * 300, " ".join(f"{i} of many" for i in range(500))]


def read_golden(path):
    """[(token ids, vector)]: see tests/golden/make_encoder_golden.py."""
    with open(path, "rb") as file:
        data = file.read()
    count, dim = struct.unpack_from("<ii", data, 8)
    at, entries = 16, []
    for _ in range(count):
        (tokens,) = struct.unpack_from("<i", data, at)
        ids = np.frombuffer(data, "<i4", tokens, at + 4).tolist()
        at += 4 + 4 * tokens
        entries.append((ids, np.frombuffer(data, "<f4", dim, at)))
        at += 4 * dim
    return entries


def cosines(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


class TorchEncoderTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = ServerProcess(flags=["--encoder-precision", "float32"])  # As torch does.
        cls.client = loci.Client(cls.server.address)
        cls.folder = tempfile.TemporaryDirectory(prefix="loci_encoder_")
        torch.set_num_threads(1)  # The server has the machine's cores.
        torch.manual_seed(7)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        delete_stores_and_stop(ReflectionClient(cls.server.address), cls.server, [])
        cls.folder.cleanup()

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def small_checkpoint(self, name, pooling="mean", normalize=True, prompts=None, max_length=64, prefix="", dtype=np.float32, old_norms=False):
        """A small random encoder with the default one's tokenizer."""
        with open(os.path.join(MODEL, "config.json"), encoding="utf-8") as file:
            vocabulary_size = json.load(file)["vocab_size"]
        config = BertConfig(hidden_size=32, layer_count=3, head_count=4, intermediate_size=48, vocabulary_size=vocabulary_size, max_positions=80)
        encoder = BertEncoder(config)
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        folder = self.path(name)
        os.makedirs(os.path.join(folder, "1_Pooling"))
        for path in ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
            shutil.copyfile(os.path.join(MODEL, path), os.path.join(folder, path))
        kinds = ["Transformer", "Pooling"] + ["Normalize"] * normalize
        for path, content in (
                ("config.json", {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
                                 "vocab_size": vocabulary_size, "max_position_embeddings": 80, "type_vocab_size": 2, "layer_norm_eps": 1e-12}),
                ("modules.json", [{"idx": i, "name": str(i), "path": ["", "1_Pooling", "2_Normalize"][i], "type": "sentence_transformers.models." + kind}
                                  for i, kind in enumerate(kinds)]),
                ("1_Pooling/config.json", {"word_embedding_dimension": 32, **{f"pooling_mode_{mode}": pooling == mode.split("_")[0]
                                                                              for mode in ("mean_tokens", "cls_token", "max_tokens")}}),
                ("sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False}),
                ("config_sentence_transformers.json", {"prompts": prompts or {}})):
            with open(os.path.join(folder, path), "w", encoding="utf-8") as file:
                json.dump(content, file)
        tensors = {prefix + name: values.astype(dtype) for name, values in encoder.tensors().items()}
        if old_norms:
            tensors = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): values
                       for name, values in tensors.items()}
        with open(os.path.join(folder, "model.safetensors"), "wb") as file:
            file.write(safetensors.dumps(tensors))
        return folder

    def served(self, name, folder, texts, role):
        info = self.client.import_encoder(name, folder)
        return self.client.encode(texts, role=role, encoder=info.fingerprint).vectors

    def assert_parity(self, ours, servers, least=0.99999):
        self.assertEqual(ours.shape, servers.shape)
        self.assertGreater(cosines(ours, servers).min(), least)
        np.testing.assert_allclose(np.linalg.norm(ours, axis=1), np.linalg.norm(servers, axis=1), rtol=1e-3)

    def test_vectors_are_those_of_transformers(self):
        encoder = BertEncoder.load(MODEL)
        golden = sorted(read_golden("tests/golden/encoder.golden"), key=lambda entry: len(entry[0]))
        with torch.no_grad():
            for begin in range(0, len(golden), 8):
                ids, vectors = zip(*golden[begin:begin + 8])
                self.assertGreater(cosines(encoder(**loci.torch.pad(ids)), vectors).min(), 0.999999)

    def test_texts_are_encoded_as_the_server_encodes_them(self):
        encoder = BertEncoder.load(MODEL)
        self.assertFalse(encoder.training)
        reply = self.client.encode(TEXTS)
        self.assertEqual(encoder.tokenize(TEXTS)["attention_mask"].sum(1).tolist(), [usage.used_tokens for usage in reply.usage])
        with torch.no_grad():
            self.assert_parity(encoder.embed(TEXTS).numpy(), reply.vectors)
            alone = encoder.embed(TEXTS[4:5])
            passage = encoder.embed([loci.Passage("id", "turns PDF into text?", "Which package")])
        self.assertGreater(cosines(alone, reply.vectors[4:5])[0], 0.99999)  # Padding changes nothing.
        self.assertGreater(cosines(passage, reply.vectors[4:5])[0], 0.99999)
        with torch.no_grad():
            self.assertTrue(torch.equal(encoder.embed("one text"), encoder.embed(["one text"])))
            self.assertEqual(encoder.embed(loci.Passage("id", "text")).shape, (1, encoder.dim))
        with self.assertRaises(ValueError):
            encoder.tokenize(["a"], "POET")
        with self.assertRaisesRegex(TypeError, "a text is a int"):
            encoder.embed(["a", 5])
        for shape in ((1, 513), (3,)):
            with self.assertRaisesRegex(ValueError, rf"input_ids has shape \[{shape[0]}.*of at most 512 tokens"):
                encoder(torch.ones(shape, dtype=torch.int64))

    def test_pooling_prompts_and_lengths_are_those_of_the_server(self):
        for name, options in (
                ("mean", {"normalize": False, "prompts": {"query": "query: ", "document": "passage: "}}),
                ("cls", {"pooling": "cls", "max_length": 9, "prompts": {"query": "find "}}),
                ("max", {"pooling": "max", "normalize": False, "prefix": "bert.", "dtype": np.float16, "max_length": 1000}),
                ("old", {"old_norms": True, "prompts": {"passage": "p "}})):
            folder = self.small_checkpoint(name, **options)
            encoder = BertEncoder.load(folder)
            for role in ("QUERY", "PASSAGE"):
                with self.subTest(checkpoint=name, role=role), torch.no_grad():
                    self.assert_parity(encoder.embed(TEXTS, role).numpy(), self.served(name, folder, TEXTS, role))

    def test_what_is_exported_is_what_the_server_runs(self):
        encoder = BertEncoder.load(self.small_checkpoint("untrained"))
        encoder.freeze_but_last(2)
        optimizer = torch.optim.SGD([parameter for parameter in encoder.parameters() if parameter.requires_grad], 5.0)
        before = encoder.embed(TEXTS[:4]).detach()
        loci.torch.contrastive_loss(encoder.embed(["a b", "c d"]), encoder.embed(["e f", "g h"])).backward()
        optimizer.step()
        with torch.no_grad():
            after = encoder.embed(TEXTS)
        self.assertLess(cosines(before, after[:4]).max(), 0.999)
        encoder.export(self.path("trained"))
        info = self.client.import_encoder("trained", self.path("trained"))
        self.assertEqual((info.dim, info.max_tokens, info.model), (32, 64, "trained"))
        self.assertNotEqual(info.fingerprint, self.client.server_info().encoders[0].fingerprint)
        self.assert_parity(after.numpy(), self.client.encode(TEXTS, encoder=info.fingerprint).vectors)
        again = BertEncoder.load(self.path("trained"))
        self.assertEqual(again.weights(), encoder.weights())
        again.export(self.path("trained"))  # Over what is there, its own source.
        self.assertEqual(self.client.import_encoder("trained", self.path("trained")).fingerprint, info.fingerprint)

    def test_layers_are_frozen(self):
        encoder = BertEncoder.load(self.small_checkpoint("frozen"))
        learns = lambda: {name.split(".")[2] if name.startswith("encoder") else "embeddings" for name, p in encoder.named_parameters() if p.requires_grad}
        for layers, wanted in ((0, set()), (1, {"2"}), (3, {"0", "1", "2"})):
            encoder.freeze_but_last(layers)
            self.assertEqual(learns(), wanted)
        for layers in (-1, 4):
            with self.assertRaises(ValueError):
                encoder.freeze_but_last(layers)

    def test_adapters_learn_alone_and_merge(self):
        folder = self.small_checkpoint("adapted")
        encoder = BertEncoder.load(folder)
        with torch.no_grad():
            before = encoder.embed(TEXTS)
        encoder.add_adapters(rank=2, alpha=4.0, targets=["query", "output.dense"])
        learning = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
        self.assertEqual(len(learning), 2 * 2 * 3)
        self.assertTrue(all(".adapter_" in name and ("self.query" in name or "attention" not in name) for name in learning), learning)
        with torch.no_grad():
            np.testing.assert_array_equal(encoder.embed(TEXTS), before)
        self.assertEqual(set(encoder.tensors()), set(BertEncoder.load(folder).state_dict()))
        optimizer = torch.optim.Adam([parameter for parameter in encoder.parameters() if parameter.requires_grad], 0.05)
        for _ in range(3):
            optimizer.zero_grad()
            (encoder.embed(TEXTS) * torch.randn(len(TEXTS), 32)).sum().backward()
            optimizer.step()
        for targets in (["query"], ["key"]):  # What was learnt is neither thrown away nor frozen.
            with self.assertRaisesRegex(ValueError, "merge_adapters"):
                encoder.add_adapters(targets=targets)
        self.assertEqual([name for name, parameter in encoder.named_parameters() if parameter.requires_grad], learning)
        with torch.no_grad():
            adapted = encoder.embed(TEXTS)
        self.assertLess(cosines(before, adapted).min(), 0.9999)
        encoder.export(self.path("merged"))
        self.assert_parity(adapted.numpy(), self.served("merged", self.path("merged"), TEXTS, "PASSAGE"))
        with torch.no_grad():
            np.testing.assert_allclose(encoder.embed(TEXTS), adapted, atol=1e-6)  # The export changed nothing here.
            weights = encoder.weights()
            encoder.merge_adapters()
            np.testing.assert_allclose(encoder.embed(TEXTS), adapted, atol=1e-5)
        self.assertEqual(encoder.weights(), weights)
        self.assertFalse(any(isinstance(module, nn.Linear) and type(module) is not nn.Linear for module in encoder.modules()))
        for wrong in ({"rank": 0}, {"targets": ["pooler"]}):
            with self.assertRaises(ValueError):
                encoder.add_adapters(**wrong)

    def test_dropout_is_on_in_training_alone(self):
        encoder = BertEncoder.load(self.small_checkpoint("dropout")).train()
        with torch.no_grad():
            self.assertFalse(torch.equal(encoder.embed(["a text"]), encoder.embed(["a text"])))
            encoder.eval()
            self.assertTrue(torch.equal(encoder.embed(["a text"]), encoder.embed(["a text"])))

    def test_gradients_go_through_encoder_and_server(self):
        encoder = BertEncoder.load(self.small_checkpoint("through"))
        info = self.client.import_encoder("through", self.path("through"))
        texts = [f"text of {i}" for i in range(12)]
        with torch.no_grad():
            vectors = encoder.embed(texts)
        self.client.ingest("through", [loci.Passage(text.replace(" ", "-"), text) for text in texts], vectors=vectors.numpy(),
                           encoder_fingerprint=info.fingerprint)
        with self.client.open_session("through") as session:
            found = loci.torch.retrieve(encoder.embed(["text of 3"], "QUERY"), session, 4, temperature=0.1)
            likelihoods = torch.tensor([[0.0, -5.0, -5.0, -5.0, -7.0]])
            loci.torch.rag_sequence_loss(found, likelihoods).backward()
        got = {name: parameter.grad.clone() for name, parameter in encoder.named_parameters() if parameter.grad is not None}
        encoder.zero_grad()
        log_p = torch.log_softmax(encoder.embed(["text of 3"], "QUERY") @ vectors.t() / 0.1, 1)[0]
        head = [texts.index(passage.text) for passage in found.passages[0]]
        tail = torch.logsumexp(log_p[[i for i in range(12) if i not in head]], 0)
        (-torch.logsumexp(torch.cat([log_p[head], tail[None]]) + likelihoods[0], 0)).backward()
        for name, parameter in encoder.named_parameters():
            if parameter.grad is not None:
                # Where the gradient is 0 but for rounding (a key's bias) nothing is left to compare.
                self.assertLess(float((got[name] - parameter.grad).norm()), 1e-4 * float(parameter.grad.norm()) + 1e-6, name)
        self.client.delete_store("through", confirm_name="through")

    def test_what_is_published_is_what_the_store_uses(self):
        encoder = BertEncoder.load(self.small_checkpoint("published"))
        info = self.client.import_encoder("published", self.path("published"))
        texts = [f"text of {i}" for i in range(5)]
        self.client.ingest("published", [loci.Passage(str(i), text) for i, text in enumerate(texts)], encoder_fingerprint=info.fingerprint)
        with torch.no_grad():
            encoder.encoder.layer[2].output.dense.weight.add_(0.3 * torch.randn(32, 48))
            wanted = encoder.embed(texts).numpy()
        query = self.client.publish_encoder(encoder.weights(), store="published", halves="QUERY", job_name="run", metrics={"step": 1})
        self.assertEqual((query.live, query.job), (True, ""))
        self.assertEqual(self.client.search("published", texts, 1).encoder_fingerprint, query.fingerprint)
        both = self.client.publish_encoder(encoder.weights(), store="published", halves="BOTH")
        self.assertEqual(self.client.wait_for_job(both.job).state, "SUCCEEDED")
        self.assertEqual(self.client.get_store("published").encoder_fingerprint, both.fingerprint)
        self.assert_parity(wanted, self.client.get_passages("published", [str(i) for i in range(5)], include_vectors=True).vectors)
        with self.assertRaises(loci.LociError) as raised:
            self.client.publish_encoder(b"no weights", store="published", halves="QUERY")
        self.assertEqual(raised.exception.reason, "ENCODER_INVALID")
        self.client.delete_store("published", confirm_name="published")

    def test_what_can_not_be_loaded_says_why(self):
        def changed(path, **values):
            folder = self.path("changed")
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(self.path("good"), folder)
            with open(os.path.join(folder, path), "r+", encoding="utf-8") as file:
                content = json.load(file)
                content.update(values)
                file.seek(0)
                file.truncate()
                json.dump(content, file)
            return folder

        self.small_checkpoint("good")
        for path, values, says in (("config.json", {"model_type": "roberta"}, "roberta"), ("config.json", {"hidden_act": "relu"}, "hidden_act"),
                                   ("config.json", {"intermediate_size": 47}, "shape"), ("config.json", {"num_hidden_layers": 4}, "is missing"),
                                   ("config.json", {"num_attention_heads": 5}, "not a multiple"),
                                   ("1_Pooling/config.json", {"pooling_mode_cls_token": True}, "2 names"),
                                   ("1_Pooling/config.json", {"pooling_mode_mean_tokens": False, "pooling_mode_weightedmean_tokens": True}, "weightedmean")):
            with self.subTest(path=path, values=values), self.assertRaisesRegex(ValueError, says):
                BertEncoder.load(changed(path, **values))
        with self.assertRaisesRegex(ValueError, r"config\.json"):
            BertEncoder.load(self.path("nowhere"))

        def written(path, content):
            folder = changed("config.json")
            with open(os.path.join(folder, path), "wb") as file:
                file.write(content)
            return folder

        sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size", "max_position_embeddings")
        for path, values, says in (
                *(("config.json", {key: value}, key) for key in sizes for value in (None, "384", 0, -1, 2.5, True, [], 10**15)),
                *(("config.json", {key: value}, key) for key in ("layer_norm_eps", "hidden_dropout_prob") for value in ("a", -1, 1, math.nan, [], True)),
                *(("config.json", {key: 5}, key) for key in ("model_type", "hidden_act", "is_decoder")), ("config.json", {"type_vocab_size": "2"}, "type_voc"),
                ("config.json", {"vocab_size": 4_000_000}, "word_embeddings.* has shape"), ("config.json", {"hidden_size": 16384}, "has shape"),
                ("config.json", {"num_hidden_layers": 200}, "layer.199.* is missing"), ("config.json", {"intermediate_size": 65536}, "has shape"),
                ("1_Pooling/config.json", {"pooling_mode_mean_tokens": "yes"}, "pooling_mode_mean_tokens"), ("1_Pooling/config.json", {"pooling_mode": 1}, "pool"),
                ("sentence_bert_config.json", {"max_seq_length": "64"}, "max_seq_length"), ("sentence_bert_config.json", {"max_seq_length": 0}, "max_seq"),
                ("config_sentence_transformers.json", {"prompts": ["a"]}, "prompts"), ("config_sentence_transformers.json", {"prompts": {"q": 1}}, "prompt 'q'"),
                ("config_sentence_transformers.json", {"default_prompt_name": []}, "default_prompt_name")):
            with self.subTest(path=path, values=values), self.assertRaisesRegex(ValueError, re.escape(path.split("/")[-1]) + ".*" + says + "|tensor.*" + says):
                BertEncoder.load(changed(path, **values))
        for path, content in (*((path, content) for path in ("config.json", "1_Pooling/config.json", "sentence_bert_config.json", "tokenizer_config.json",
                                                             "config_sentence_transformers.json") for content in (b"", b"[]", b"5", b"{", b"\xff", b"[" * 100_000)),
                              *(("modules.json", content) for content in (b"{}", b"5", b"[]", b"[5]", b"[{}]", b'[{"type": 5}]', b'[{"type": "a.Dense"}]')),
                              *(("tokenizer.json", content) for content in (b"", b"{}", b"[]", b"no", b"\xff", b'{"model": {"type": "None"}}'))):
            with self.subTest(path=path, content=content[:50]), self.assertRaisesRegex(ValueError, re.escape(path)):
                BertEncoder.load(written(path, content))
        with self.assertRaisesRegex(ValueError, "not loaded"):
            BertEncoder(BertConfig.load(self.path("good"))).export(self.path("never"))
        self.assertFalse(os.path.exists(self.path("never")))
        encoder = BertEncoder.load(self.path("good"))
        with torch.no_grad():
            encoder.embeddings.LayerNorm.bias[0] = float("nan")
        with self.assertRaisesRegex(ValueError, "LayerNorm.bias"):
            encoder.weights()
        with self.assertRaises(loci.LociError) as raised:
            self.client.import_encoder("bad", changed("config.json", model_type="roberta"))
        self.assertEqual(raised.exception.code, grpc.StatusCode.INVALID_ARGUMENT)

    def test_safetensors(self):
        tensors = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.float64([1.5]), "c": np.float16([[2]]), "d": np.int64([7]),
                   "e": np.zeros((0, 3), np.float32)}
        path = self.path("tensors")

        def write(data):
            with open(path, "wb") as file:
                file.write(data)
            return safetensors.read(path)

        back = write(safetensors.dumps(tensors))
        self.assertEqual(set(back), set(tensors))
        for name, values in tensors.items():
            np.testing.assert_array_equal(back[name], values)
            self.assertEqual(back[name].dtype, values.dtype)

        def file_of(header, data=b""):
            text = header if isinstance(header, bytes) else json.dumps(header).encode()
            return struct.pack("<Q", len(text)) + text + data

        entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
        half = write(file_of({"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, (np.float32([1.5, -3]).view("<u4") >> 16).astype("<u2").tobytes()))
        np.testing.assert_array_equal(half["x"], np.float32([1.5, -3]))
        place = {"x": {**entry, "shape": [1], "data_offsets": [0, 4]}}
        deep = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        shapes = (None, "2", 2.0, True, {}, [2.0], ["2"], [True, 2], [-1, -2], [2] + [1] * 70, [0, 2**62, 2**62], [None])
        for header, says in (
                (b"", "not JSON"), (b"[1]", "no JSON object"), (b'"x"', "no JSON object"), (b"null", "no JSON object"), (deep, "JSON"),
                (b"\xff", "not JSON"), ("{}".encode("utf-16"), "not JSON"),
                (json.dumps({"x": entry}).encode()[:-1] + b',"x":' + json.dumps(entry).encode() + b"}", "'x' is there twice"),
                *(({"x": {**entry, "shape": shape}}, "tensor 'x'") for shape in shapes),
                *(({"x": {**entry, "data_offsets": offsets}}, "tensor 'x'") for offsets in ([0.0, 8.0], ["0", "8"], "08", None, [False, 8], [0, 8, 8], 5)),
                *(({"x": {**entry, "dtype": dtype}}, "tensor 'x'") for dtype in (None, [], {}, 5)), ({"x": None}, "tensor 'x'"), ({"x": []}, "tensor 'x'"),
                ({"x": entry, "y": {**entry, "shape": [1], "data_offsets": [4, 8]}}, "tensor 'y' begins at byte 4"),
                ({"x": entry, "y": entry}, "tensor 'y' begins at byte 0"), (place, "end at byte 4 of 8"),
                ({"x": {**entry, "shape": [1], "data_offsets": [4, 8]}}, "tensor 'x' begins at byte 4")):
            with self.subTest(header=header if header is not deep else "deep"), self.assertRaisesRegex(ValueError, "tensors.*" + says):
                write(file_of(header, b"12345678"))
        for data in (b"", b"1234567"):
            with self.assertRaisesRegex(ValueError, f"a file of {len(data)} bytes"):
                write(data)
        for data in (b"", b"\1", struct.pack("<Q", 1 << 40), file_of(b"{"), file_of({"x": entry}), file_of({"x": {**entry, "dtype": "F3"}}, b"12345678"),
                     file_of({"x": {**entry, "data_offsets": [-1, 7]}}, b"12345678"), file_of({"x": {**entry, "shape": [3]}}, b"12345678"),
                     file_of({"x": {**entry, "data_offsets": [0]}}, b"12345678"), file_of({"x": 5})):
            with self.subTest(data=data), self.assertRaises(ValueError):
                write(data)

    def test_files_are_those_of_the_formats_own_library(self):
        try:
            from safetensors.numpy import load, save
        except ImportError:
            self.skipTest("the package safetensors is not installed")
        tensors = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.float16([1.5])}
        theirs = load(safetensors.dumps(tensors))
        with open(self.path("theirs"), "wb") as file:
            file.write(save(tensors))
        ours = safetensors.read(self.path("theirs"))
        for name, values in tensors.items():
            np.testing.assert_array_equal(theirs[name], values)
            np.testing.assert_array_equal(ours[name], values)


if __name__ == "__main__":
    main()
