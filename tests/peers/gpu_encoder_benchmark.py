#!/usr/bin/env python3
"""Our CUDA encoder against torch's best variant on the same device, same weights, same tokens, in turns (ABBA).

    python3 tests/peers/gpu_encoder_benchmark.py BINARY MODEL_DIR [--rounds 15] [--type bfloat16]

Needs torch with CUDA alone: the BERT model is written out here, so that neither transformers nor safetensors must be there. Variants: eager
and torch.compile, each with padded batches sorted by length through scaled_dot_product_attention. Prints for each shape the median and p10
of the paired ratios (above 1: ours is faster), an A/A ratio, and the fidelity of both to torch in float32 with the same rounded weights.
"""

import argparse
import json
import math
import os
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time


def load_tensors(path, torch):
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
        data = bytearray(file.read())
    types = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    tensors = {}
    for name, info in header.items():
        if name == "__metadata__" or info["dtype"] not in types:
            continue
        begin, end = info["data_offsets"]
        tensor = torch.frombuffer(data, dtype=types[info["dtype"]], count=math.prod(info["shape"]), offset=begin)
        tensors[name.removeprefix("bert.")] = tensor.reshape(info["shape"]).float()
    return tensors


def make_model(model_dir, torch, device="cuda"):
    config = json.load(open(os.path.join(model_dir, "config.json")))
    tensors = load_tensors(os.path.join(model_dir, "model.safetensors"), torch)
    functional = torch.nn.functional

    class Bert(torch.nn.Module):
        def __init__(self, dtype):
            super().__init__()
            self.heads = config["num_attention_heads"]
            self.epsilon = config["layer_norm_eps"]
            # Both sides round the same weights to the type that they compute in.
            for name, tensor in tensors.items():
                self.register_buffer(name.replace(".", "_"), tensor.to(device, dtype))

        def get(self, name, kind="weight"):
            return getattr(self, f"{name}_{kind}".replace(".", "_"))

        def norm(self, x, name):
            return functional.layer_norm(x, (x.shape[-1],), self.get(name), self.get(name, "bias"), self.epsilon)

        def dense(self, x, name):
            return functional.linear(x, self.get(name + ".dense"), self.get(name + ".dense", "bias"))

        def forward(self, ids, mask):
            count, length = ids.shape
            x = functional.embedding(ids, self.get("embeddings.word_embeddings"))
            x = x + self.get("embeddings.position_embeddings")[:length] + self.get("embeddings.token_type_embeddings")[0]
            x = self.norm(x, "embeddings.LayerNorm")
            # Without padding the fused kernels that take no mask may be used.
            attention_mask = None if mask is None else mask[:, None, None, :]
            for i in range(config["num_hidden_layers"]):
                at = f"encoder.layer.{i}."
                q, k, v = (
                    functional.linear(x, self.get(at + "attention.self." + n), self.get(at + "attention.self." + n, "bias"))
                    .view(count, length, self.heads, -1)
                    .transpose(1, 2)
                    for n in ("query", "key", "value")
                )
                y = functional.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask)
                y = self.dense(y.transpose(1, 2).reshape(count, length, -1), at + "attention.output")
                x = self.norm(y + x, at + "attention.output.LayerNorm")
                y = functional.gelu(self.dense(x, at + "intermediate"))
                x = self.norm(self.dense(y, at + "output") + x, at + "output.LayerNorm")
            if mask is None:
                return functional.normalize(x.float().mean(1), dim=1)
            weights = mask[:, :, None].to(torch.float32)
            return functional.normalize((x.float() * weights).sum(1) / weights.sum(1), dim=1)

    return Bert


class Peer:
    """Padded batches of `size` sequences, sorted by length, their ids on the host at first as ours are."""

    def __init__(self, name, model, sequences, size, torch, device="cuda"):
        self.name, self.model, self.torch, self.device = name, model, torch, device
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        self.batches, self.order = [], order
        for begin in range(0, len(order), size):
            rows = [sequences[i] for i in order[begin : begin + size]]
            width = max(map(len, rows))
            ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
            mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
            mask = None if len(rows[0]) == width else mask
            if device == "cuda":
                ids, mask = ids.pin_memory(), mask if mask is None else mask.pin_memory()
            self.batches.append((ids, mask))

    def run(self):
        with self.torch.inference_mode():
            begin = time.perf_counter()
            outputs = []
            for ids, mask in self.batches:
                mask = mask if mask is None else mask.to(self.device, non_blocking=True)
                # A compiled graph writes over what it gave before.
                outputs.append(self.model(ids.to(self.device, non_blocking=True), mask).clone())
            self.outputs = self.torch.cat(outputs).cpu()
            return time.perf_counter() - begin

    def vectors(self):
        self.run()
        out = self.torch.empty_like(self.outputs)
        out[self.torch.tensor(self.order)] = self.outputs
        return out


class Ours:
    def __init__(self, binary, model_dir, kind, ids_file):
        self.process = subprocess.Popen([binary, model_dir, "serve", kind, ids_file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit("our encoder ended")
        return json.loads(line)

    def run(self):
        return self.ask("run")["wall_s"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("model_dir")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--type", default="bfloat16")
    parser.add_argument("--seconds", type=float, default=240, help="shapes that are left after this are not measured, and named")
    args = parser.parse_args()
    try:
        import torch
    except ImportError as error:
        print("no torch here, so no peer:", error)
        return
    if not torch.cuda.is_available():
        print("torch", torch.__version__, "sees no CUDA device, so no peer")
        return
    print("torch", torch.__version__, "on", torch.cuda.get_device_name(0), "in", args.type)
    bert = make_model(args.model_dir, torch)
    dtype = getattr(torch, args.type)
    model, exact = bert(dtype).eval(), bert(torch.float32).eval()
    for name, tensor in exact.named_buffers():
        tensor.copy_(tensor.to(dtype).float())
    torch.backends.cuda.matmul.allow_tf32 = False
    generator = random.Random(1)
    shapes = {
        "L=128, 512 sequences": [128] * 512,
        "mixed 8-72, 1600 sequences": [generator.randint(8, 72) for _ in range(1600)],
        "L=32, one": [32],
        "L=8, one": [8],
        "L=32, 2048 sequences": [32] * 2048,
        "L=256, 256 sequences": [256] * 256,
    }
    begin = time.perf_counter()
    for shape, lengths in shapes.items():
        if time.perf_counter() - begin > args.seconds:
            print(f"{shape}: not measured, the time is over")
            continue
        # Dynamo counts recompilations of one function, and beyond a limit runs it eagerly without a word.
        if hasattr(torch, "_dynamo"):
            torch._dynamo.reset()
        sequences = [[101] + [generator.randint(2000, 21999) for _ in range(n - 2)] + [102] for n in lengths]
        with tempfile.TemporaryDirectory() as folder:
            ids_file = os.path.join(folder, "ids")
            with open(ids_file, "w") as file:
                file.writelines(" ".join(map(str, ids)) + "\n" for ids in sequences)
            ours = Ours(args.binary, args.model_dir, args.type, ids_file)
            sizes = [1] if len(lengths) == 1 else [64, 256, len(lengths)]
            peers = [Peer(f"eager, batches of {size}", model, sequences, size, torch) for size in sizes]
            try:
                # With CUDA graphs for one query; mixed widths would compile for each.
                mode = "reduce-overhead" if len(lengths) == 1 else "default"
                compiled = torch.compile(model, mode=mode, dynamic=len(set(lengths)) > 1)
                candidates = [Peer(f"compile ({mode}), batches of {size}", compiled, sequences, size, torch) for size in sizes]
                for peer in candidates:
                    for _ in range(3):
                        peer.run()
                peers += candidates
            except Exception as error:  # torch.compile needs a C compiler and more.
                print("torch.compile was not tried:", type(error).__name__, " ".join(str(error).split())[:160])
            for peer in peers:
                for _ in range(3):
                    peer.run()
                peer.best = min(peer.run() for _ in range(5))
            best = min(peers, key=lambda peer: peer.best)
            for _ in range(5):
                ours.run()
            repeat = 50 if len(lengths) == 1 else 1
            ratios, mine, theirs = [], [], []
            for _ in range(args.rounds):
                a1 = sum(ours.run() for _ in range(repeat))
                b1 = sum(best.run() for _ in range(repeat))
                b2 = sum(best.run() for _ in range(repeat))
                a2 = sum(ours.run() for _ in range(repeat))
                ratios.append((b1 + b2) / (a1 + a2))
                mine.append((a1 + a2) / 2 / repeat)
                theirs.append((b1 + b2) / 2 / repeat)
            same = statistics.median(ours.run() / ours.run() for _ in range(15))
            vectors_file = os.path.join(folder, "vectors")
            ours.ask("write " + vectors_file)
            with open(vectors_file, "rb") as file:
                vectors = torch.frombuffer(bytearray(file.read()), dtype=torch.float32).reshape(len(lengths), -1)
            reference = Peer("float32", exact, sequences, min(64, len(lengths)), torch).vectors()
            ours.process.stdin.close()
            ours.process.wait()
        ratios.sort()
        print(
            f"{shape}: {statistics.median(ratios):.2f}x median, {ratios[len(ratios) // 10]:.2f}x p10 of {best.name}; A/A {same:.3f}; "
            f"ours {1e6 * statistics.median(mine):.0f} us, torch {1e6 * statistics.median(theirs):.0f} us; least cosine to float32: "
            f"ours {float((vectors * reference).sum(1).min()):.6f}, torch {float((best.vectors() * reference).sum(1).min()):.6f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
