#!/usr/bin/env python3
"""Our encoder against onnxruntime in float32: the same tokens of real texts, in turns (ABBA).

    python tests/peers/encoder_benchmark.py bazel-bin/encoder/encoder_benchmark models/all-MiniLM-L6-v2 PASSAGES.jsonl.gz \
        [--texts 256] [--threads 1] [--rounds 15] [--length N]

onnxruntime runs the model as torch.onnx exports it (to a temporary file), with sequences sorted by length in padded batches, as it
comes and with its own transformer fusions, in batches of 16 and of 32: the fastest of the four is the peer. Ours takes the
sequences in their order, packed. One thread is judged by CPU time; more threads by wall time, and only where the machine is idle.
Prints the median and the p10 of the paired ratios (above 1: ours is faster), the rate of both, the FMA roof and the fidelity.
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import tempfile
import time

import numpy as np


def export(model_dir: str, folder: str) -> list[str]:
    """Returns the paths of the ONNX models to try."""
    import torch
    import transformers

    torch.set_num_threads(1)
    model = transformers.BertModel.from_pretrained(
        model_dir, torch_dtype=torch.float32, attn_implementation="eager", add_pooling_layer=False
    ).eval()

    class LastHiddenState(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask, token_type_ids):
            return self.model(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            ).last_hidden_state

    ids = torch.ones((2, 16), dtype=torch.int64)
    plain = os.path.join(folder, "plain.onnx")
    axes = {0: "batch", 1: "tokens"}
    names = ["input_ids", "attention_mask", "token_type_ids"]
    torch.onnx.export(
        LastHiddenState(), (ids, ids, ids * 0), plain, input_names=names, output_names=["states"],
        dynamic_axes={name: axes for name in [*names, "states"]}, opset_version=17, dynamo=False,
    )  # fmt: skip
    paths = [plain]
    try:
        from onnxruntime.transformers import optimizer
        from onnxruntime.transformers.fusion_options import FusionOptions

        fused = os.path.join(folder, "fused.onnx")
        config = model.config
        result = optimizer.optimize_model(
            plain, model_type="bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size,
            optimization_options=FusionOptions("bert"), opt_level=1, use_gpu=False,
        )  # fmt: skip
        result.save_model_to_file(fused)
        print("onnxruntime fusions:", {k: v for k, v in result.get_fused_operator_statistics().items() if v})
        paths.append(fused)
    except Exception as error:  # The tool needs further packages in some versions.
        print("onnxruntime's transformer fusions were not tried:", type(error).__name__, str(error)[:200])
    return paths


class Onnx:
    def __init__(self, path: str, sequences: list[list[int]], batch: int, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.name = f"{os.path.basename(path)} batch {batch}"
        self.batches = []
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            width = max(len(sequences[i]) for i in rows)
            ids = np.zeros((len(rows), width), dtype=np.int64)
            mask = np.zeros_like(ids)
            for r, i in enumerate(rows):
                ids[r, : len(sequences[i])] = sequences[i]
                mask[r, : len(sequences[i])] = 1
            self.batches.append((rows, {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}))

    def run(self) -> dict:
        wall, cpu = time.perf_counter(), time.process_time()
        for _, feed in self.batches:
            self.session.run(None, feed)
        return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}

    def vectors(self, count: int) -> np.ndarray:
        out = None
        for rows, feed in self.batches:
            states = self.session.run(None, feed)[0]
            mask = feed["attention_mask"][:, :, None].astype(np.float32)
            mean = (states * mask).sum(1) / mask.sum(1)
            if out is None:
                out = np.zeros((count, mean.shape[1]), dtype=np.float32)
            out[rows] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return out


class Ours:
    def __init__(self, binary: str, model_dir: str, ids_file: str, threads: int) -> None:
        self.process = subprocess.Popen(
            [binary, model_dir, ids_file, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, command: str) -> dict:
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def run(self) -> dict:
        return self.ask("run")


def other_load() -> float:
    """Cores that others used during a tenth of a second."""

    def busy() -> int:
        fields = [int(x) for x in open("/proc/stat").readline().split()[1:]]
        return sum(fields) - fields[3] - fields[4]

    before = busy()
    time.sleep(0.1)
    return (busy() - before) / 10.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("model_dir")
    parser.add_argument("passages")
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--length", type=int, default=0, help="cut or drop texts to exactly so many tokens; 0: as they are")
    args = parser.parse_args()

    import onnxruntime
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model_dir)
    sequences = []
    with gzip.open(args.passages, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            if number % 97 != 0:
                continue
            record = json.loads(line)
            text = (record["title"] + " " + record["text"]).strip()
            ids = tokenizer(text, truncation=True, max_length=args.length or 256)["input_ids"]
            if args.length == 0 or len(ids) == args.length:
                sequences.append(ids)
            if len(sequences) == args.texts:
                break
    lengths = [len(ids) for ids in sequences]
    print(f"{len(sequences)} texts, {sum(lengths)} tokens, mean {np.mean(lengths):.1f}, longest {max(lengths)}; {args.threads} thread(s)")

    with tempfile.TemporaryDirectory() as folder:
        ids_file = os.path.join(folder, "ids.txt")
        with open(ids_file, "w") as file:
            file.writelines(" ".join(map(str, ids)) + "\n" for ids in sequences)
        ours = Ours(args.binary, args.model_dir, ids_file, args.threads)
        clock = "cpu_s" if args.threads == 1 else "wall_s"
        peers = [Onnx(path, sequences, batch, args.threads) for path in export(args.model_dir, folder) for batch in (16, 32)]
        for peer in peers:
            peer.run()
            peer.best = min(peer.run()[clock] for _ in range(2))
            print(f"  onnxruntime {onnxruntime.__version__} {peer.name}: {sum(lengths) / peer.best:.0f} tokens/s")
        peer = min(peers, key=lambda p: p.best)
        load = 0.0
        ours.run()
        ratios, mine, theirs = [], [], []
        for _ in range(args.rounds):
            load = max(load, other_load())
            a1, b1, b2, a2 = ours.run(), peer.run(), peer.run(), ours.run()
            ratios.append((b1[clock] + b2[clock]) / (a1[clock] + a2[clock]))
            mine += [a1[clock], a2[clock]]
            theirs += [b1[clock], b2[clock]]
        aa = [ours.run()[clock] / ours.run()[clock] for _ in range(5)]
        roof = ours.ask("roof")
        vectors_file = os.path.join(folder, "vectors")
        answer = ours.ask("write " + vectors_file)
        vectors = np.fromfile(vectors_file, dtype=np.float32).reshape(len(sequences), -1)
        cosine = (vectors * peer.vectors(len(sequences))).sum(1)
        ours.process.stdin.close()
        ours.process.wait()

    mine_s, theirs_s = statistics.median(mine), statistics.median(theirs)
    print(f"ours         {sum(lengths) / mine_s:8.0f} tokens/s {answer['gflop'] / mine_s:7.1f} GFLOP/s ({clock})")
    print(f"onnxruntime  {sum(lengths) / theirs_s:8.0f} tokens/s {answer['gflop'] / theirs_s:7.1f} GFLOP/s ({peer.name})")
    print(f"FMA roof of one core {roof['gflops']} GFLOP/s ({roof['isa']}); A/A {statistics.median(aa):.3f}")
    print(f"cosine of ours to onnxruntime's: least {cosine.min():.7f}")
    p10 = sorted(ratios)[len(ratios) // 10]
    if args.threads > 1 and load > 0.2:
        print(f"ratio not judged: others used {load:.1f} cores (median {statistics.median(ratios):.3f})")
    else:
        print(f"ratio ours / onnxruntime fp32: median {statistics.median(ratios):.3f}, p10 {p10:.3f} (goal >= 0.9)")


if __name__ == "__main__":
    main()
