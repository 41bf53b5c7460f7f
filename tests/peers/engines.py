"""Other engines that run a sentence encoder: OpenVINO, onnxruntime and PyTorch, in float32, 16 bits (the faster of bfloat16 and float16) and int8.

An engine turns batches of token ids into a list of modes, each a function that encodes all batches once. What an engine needs on disk (ONNX
files, the quantised model) is made once in a folder of the caller's.
"""

import os
import pathlib
from typing import Callable, Optional

import numpy as np

CALIBRATION_TEXTS = 300


class Batch:
    """ids and mask [rows, width], int64; `order` says which sequence each row is. `full`: no row is padded."""

    def __init__(self, sequences: list, order: list) -> None:
        width = max(len(sequences[i]) for i in order)
        self.order = order
        self.ids = np.zeros((len(order), width), dtype=np.int64)
        self.mask = np.zeros_like(self.ids)
        for row, i in enumerate(order):
            self.ids[row, : len(sequences[i])] = sequences[i]
            self.mask[row, : len(sequences[i])] = 1
        self.full = bool(self.mask.all())


def sorted_batches(sequences: list, size: int) -> list:
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    return [Batch(sequences, order[first : first + size]) for first in range(0, len(order), size)]


class Checkpoint:
    """The model as PyTorch runs it, and the files that are made of it."""

    def __init__(self, model_dir: str, work: pathlib.Path, calibration: list) -> None:
        self.model_dir, self.work, self.calibration = model_dir, work, calibration
        work.mkdir(parents=True, exist_ok=True)

    def module(self, attention: str, masked: bool, dtype=None):
        """ids, mask -> unit vectors; without `masked`, ids alone: all of them count."""
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        bert = transformers.BertModel.from_pretrained(self.model_dir, attn_implementation=attention, add_pooling_layer=False)
        bert = bert.eval().to(dtype or torch.float32)

        class Embedder(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.bert = bert

            def forward(self, ids, mask=None):
                states = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
                if mask is None:
                    pooled = states.mean(1)
                else:
                    weights = mask.unsqueeze(-1).to(states.dtype)
                    pooled = (states * weights).sum(1) / weights.sum(1)
                return torch.nn.functional.normalize(pooled, dim=1)

        if masked:
            return Embedder()

        class Full(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embedder = Embedder()

            def forward(self, ids):
                # An explicit None would become a mask of ones in transformers' graph.
                states = self.embedder.bert.encoder(self.embedder.bert.embeddings(input_ids=ids)).last_hidden_state
                return torch.nn.functional.normalize(states.mean(1), dim=1)

        return Full()

    def onnx(self, masked: bool) -> str:
        """The path of the model in float32 as PyTorch exports it."""
        import torch

        path = self.work / ("masked.onnx" if masked else "full.onnx")
        if not path.exists():
            ids = torch.ones((2, 16), dtype=torch.int64)
            names = ["ids", "mask"] if masked else ["ids"]
            axes = {0: "batch", 1: "tokens"}
            torch.onnx.export(
                self.module("eager", masked), tuple([ids] * len(names)), f"{path}.part", input_names=names, output_names=["vectors"],
                dynamic_axes={**{name: axes for name in names}, "vectors": {0: "batch"}}, opset_version=17, dynamo=False,
            )  # fmt: skip
            os.rename(f"{path}.part", path)
        return str(path)

    def fused_onnx(self, masked: bool) -> str:
        """The same after onnxruntime's own fusions for transformers."""
        from onnxruntime.transformers import optimizer
        from onnxruntime.transformers.fusion_options import FusionOptions

        path = self.work / ("masked_fused.onnx" if masked else "full_fused.onnx")
        if not path.exists():
            config = self.config()
            result = optimizer.optimize_model(
                self.onnx(masked), model_type="bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size,
                optimization_options=FusionOptions("bert"), opt_level=1, use_gpu=False,
            )  # fmt: skip
            result.save_model_to_file(f"{path}.part")
            os.rename(f"{path}.part", path)
        return str(path)

    def config(self):
        import transformers

        return transformers.AutoConfig.from_pretrained(self.model_dir)

    def dynamic_int8_onnx(self, masked: bool, fused: bool, per_channel: bool) -> str:
        import onnx
        from onnxruntime import quantization

        path = self.work / f"{'masked' if masked else 'full'}{'_fused' if fused else ''}_int8{'_channels' if per_channel else ''}.onnx"
        if not path.exists():
            source = self.fused_onnx(masked) if fused else self.onnx(masked)
            quantization.quantize_dynamic(
                source, f"{path}.part", weight_type=quantization.QuantType.QInt8, per_channel=per_channel,
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},  # Its shape inference does not know the fused operators.
            )  # fmt: skip
            os.rename(f"{path}.part", path)
        return str(path)

    def openvino_int8(self, masked: bool) -> str:
        """OpenVINO's static int8 by nncf, calibrated on 300 real texts."""
        path = self.work / f"nncf{CALIBRATION_TEXTS}_{'masked' if masked else 'full'}.xml"
        if not path.exists():
            import nncf
            import openvino

            model = openvino.Core().read_model(self.onnx(masked))
            assert len(self.calibration) >= CALIBRATION_TEXTS, "too few texts to calibrate with"

            def feed(ids: list) -> dict:
                row = np.array([ids], dtype=np.int64)
                return {"ids": row, "mask": np.ones_like(row)} if masked else {"ids": row}

            dataset = nncf.Dataset([feed(ids) for ids in self.calibration[:CALIBRATION_TEXTS]])
            quantised = nncf.quantize(model, dataset, model_type=nncf.ModelType.TRANSFORMER, subset_size=CALIBRATION_TEXTS)
            openvino.save_model(quantised, path.with_suffix(".part.xml"), compress_to_fp16=False)
            os.rename(path.with_suffix(".part.bin"), path.with_suffix(".bin"))
            os.rename(path.with_suffix(".part.xml"), path)
        return str(path)


class Mode:
    """One way in which an engine encodes the batches. `run` encodes them all; `vectors` [sequences, dim] are what the last one gave."""

    def __init__(self, name: str, batches: list, encode: Callable[[], list]) -> None:
        self.name, self.batches, self.encode, self.outputs = name, batches, encode, []

    def run(self) -> None:
        self.outputs = self.encode()

    def vectors(self) -> np.ndarray:
        self.run()
        count = sum(len(batch.order) for batch in self.batches)
        out = np.zeros((count, self.outputs[0].shape[1]), dtype=np.float32)
        for batch, rows in zip(self.batches, self.outputs):
            out[batch.order] = rows
        return out


class OpenVino:
    def __init__(self, checkpoint: Checkpoint, precision: str, threads: int) -> None:
        self.checkpoint, self.precision, self.threads = checkpoint, precision, threads

    def modes(self, batches: list) -> list:
        import openvino

        core = openvino.Core()
        masked = not all(batch.full for batch in batches)
        shapes = {batch.ids.shape for batch in batches}
        path = self.checkpoint.openvino_int8(masked) if self.precision == "int8" else self.checkpoint.onnx(masked)
        out = []
        # Not int8 with float16 between: its CPU plugin 2026.4 takes more than twenty minutes for some batches, whether shapes are fixed or not.
        for hint in {"fp32": ["f32"], "half": ["bf16", "f16"], "int8": ["f32", "bf16"]}[self.precision]:
            for fixed in [True, False] if len(shapes) == 1 else [False]:
                model = core.read_model(path)
                if fixed:
                    model.reshape({name: list(batches[0].ids.shape) for name in (["ids", "mask"] if masked else ["ids"])})
                compiled = core.compile_model(
                    model, "CPU",
                    {"INFERENCE_NUM_THREADS": self.threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": hint, "ENABLE_CPU_PINNING": False,
                     "PERFORMANCE_HINT": "LATENCY"},
                )  # fmt: skip
                out.append(Mode(f"{hint}{', static shape' if fixed else ''}", batches, self.encoder(openvino, compiled, batches, masked)))
        return out

    @staticmethod
    def encoder(openvino, compiled, batches: list, masked: bool) -> Callable[[], list]:
        request = compiled.create_infer_request()
        feeds = []
        for batch in batches:
            arrays = {"ids": batch.ids, "mask": batch.mask} if masked else {"ids": batch.ids}
            feeds.append({name: openvino.Tensor(array, shared_memory=True) for name, array in arrays.items()})

        def encode() -> list:
            out = []
            for feed in feeds:
                for name, tensor in feed.items():
                    request.set_tensor(name, tensor)
                request.infer()
                out.append(request.get_output_tensor(0).data.copy())
            return out

        return encode


class OnnxRuntime:
    def __init__(self, checkpoint: Checkpoint, precision: str, threads: int) -> None:
        self.checkpoint, self.precision, self.threads = checkpoint, precision, threads

    def modes(self, batches: list) -> list:
        masked = not all(batch.full for batch in batches)
        if self.precision == "fp32":
            paths = {"plain": self.checkpoint.onnx(masked), "fused": self.checkpoint.fused_onnx(masked)}
        else:
            paths = {
                f"{'fused' if fused else 'plain'}{', by channel' if channels else ''}": self.checkpoint.dynamic_int8_onnx(masked, fused, channels)
                for fused in (False, True)
                for channels in (False, True)
            }
        return [Mode(name, batches, self.encoder(path, batches, masked)) for name, path in paths.items()]

    def encoder(self, path: str, batches: list, masked: bool) -> Callable[[], list]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feeds = [{"ids": batch.ids, "mask": batch.mask} if masked else {"ids": batch.ids} for batch in batches]
        return lambda: [session.run(None, feed)[0] for feed in feeds]


class Torch:
    """Eager alone: torch.compile is not among the modes."""

    def __init__(self, checkpoint: Checkpoint, precision: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.checkpoint, self.precision = checkpoint, precision

    def modes(self, batches: list) -> list:
        import torch

        masked = not all(batch.full for batch in batches)
        dtypes = {"fp32": torch.float32} if self.precision == "fp32" else {"bf16": torch.bfloat16, "f16": torch.float16}
        feeds = [tuple(torch.from_numpy(a) for a in ([batch.ids, batch.mask] if masked else [batch.ids])) for batch in batches]

        def encoder(call) -> Callable[[], list]:
            @torch.inference_mode()
            def encode() -> list:
                return [call(*feed).float().numpy() for feed in feeds]

            return encode

        return [Mode(name, batches, encoder(self.checkpoint.module("sdpa", masked, dtype))) for name, dtype in dtypes.items()]


ENGINES = {
    "openvino-int8": lambda c, t: OpenVino(c, "int8", t),
    "onnxruntime-int8": lambda c, t: OnnxRuntime(c, "int8", t),
    "openvino-half": lambda c, t: OpenVino(c, "half", t),
    "torch-half": lambda c, t: Torch(c, "half", t),
    "openvino-fp32": lambda c, t: OpenVino(c, "fp32", t),
    "onnxruntime-fp32": lambda c, t: OnnxRuntime(c, "fp32", t),
    "torch-fp32": lambda c, t: Torch(c, "fp32", t),
}

LABELS = {
    "openvino-int8": "OpenVINO int8",
    "onnxruntime-int8": "onnxruntime int8",
    "openvino-half": "OpenVINO, 16 bits",
    "torch-half": "torch, 16 bits",
    "openvino-fp32": "OpenVINO fp32",
    "onnxruntime-fp32": "onnxruntime fp32",
    "torch-fp32": "torch fp32",
}


def peers_of(precision: str) -> list:
    """What a precision of ours is measured against."""
    if precision == "int8":
        return ["openvino-int8", "onnxruntime-int8"]
    if precision == "float32":
        return ["onnxruntime-fp32", "openvino-fp32"]
    return ["openvino-half", "torch-half", "onnxruntime-fp32"]


def version_key() -> str:
    """Names the versions that the files in a work folder were made by."""
    from importlib.metadata import version

    return "-".join(f"{name}{version(name)}" for name in ("torch", "transformers", "onnxruntime", "openvino", "nncf"))


def load(name: str, checkpoint: Checkpoint, threads: int = 1):
    return ENGINES[name](checkpoint, threads)


def fidelity(vectors: np.ndarray, truth: np.ndarray, query_count: int, top_k: int = 10) -> dict:
    """Cosine of each vector to the true one, and how many of the true top k of the first `query_count` among the rest are found."""
    cosine = (vectors * truth).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(truth, axis=1)

    def top(matrix: np.ndarray) -> np.ndarray:
        return np.argsort(-(matrix[:query_count] @ matrix[query_count:].T), axis=1, kind="stable")[:, :top_k]

    overlap = np.mean([len(set(a) & set(b)) / top_k for a, b in zip(top(vectors), top(truth))])
    return {"mean": float(cosine.mean()), "min": float(cosine.min()), "overlap": float(overlap)}


def fidelity_text(measured: Optional[dict]) -> str:
    if measured is None:
        return "-"
    return f"cosine mean {measured['mean']:.5f}, min {measured['min']:.4f}, top-10 overlap {measured['overlap']:.3f}"
