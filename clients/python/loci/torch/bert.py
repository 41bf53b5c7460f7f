"""The encoder that the server runs, as a torch module: the same checkpoint folder in, the same vectors, and a folder out that the server takes."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..types import Passage
from . import safetensors

_OTHER_FILES = ("config.json", "tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json", "modules.json",
                "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json")
_LINEAR_NAMES = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """What a checkpoint's small files say, read as the server reads them.

    Attributes
    ----------
    hidden_size, layer_count, head_count, intermediate_size, vocabulary_size, max_positions, type_vocabulary_size : int
    layer_norm_epsilon : float
    dropout, attention_dropout : float
        In training only.
    max_length : int
        Tokens of a sequence, special ones counted.
    pooling : str
        "mean", "cls" or "max", over the last layer.
    normalize : bool
        Vectors have unit length.
    query_prefix, passage_prefix : str
        Stand before texts of that role.
    """

    hidden_size: int
    layer_count: int
    head_count: int
    intermediate_size: int
    vocabulary_size: int
    max_positions: int
    type_vocabulary_size: int = 2
    layer_norm_epsilon: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1
    max_length: int = 0
    pooling: str = "mean"
    normalize: bool = False
    query_prefix: str = ""
    passage_prefix: str = ""

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> BertConfig:
        """ValueError names what is not implemented, which the server refuses too."""
        return _config_of(_read_files(folder), os.fspath(folder))


class BertEncoder(nn.Module):
    """A BERT-family text encoder (Devlin et al. 2018) with sentence-transformers' pooling, normalisation and prompts.

        encoder = loci.torch.BertEncoder.load("models/all-MiniLM-L6-v2")
        encoder.freeze_but_last(2)
        q = encoder.embed(["who discovered radium?"], role="QUERY")   # [1, dim], differentiable
        encoder.export("models/mine")                                  # loci_server --model models/mine, or client.import_encoder("mine", ...)

    Parameters are float32 and have the names of the checkpoint's tensors. As of every module, dropout is on until eval(), and load() gives it in
    eval(). Texts need the package `tokenizers`; forward() takes token ids and does not.
    """

    def __init__(self, config: BertConfig) -> None:
        """A randomly initialised one, which can't tokenize; export() needs a loaded one."""
        super().__init__()
        if config.head_count < 1 or config.hidden_size % config.head_count:
            raise ValueError(f"hidden_size {config.hidden_size} is not a multiple of head_count {config.head_count}")
        self.config = config
        self.embeddings = _Embeddings(config)
        self.encoder = _Layers(config)
        self._files: dict[str, bytes] = {}  # The checkpoint's, but for the weights.
        self._tokenizer: Any = None
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> BertEncoder:
        """Of a checkpoint's folder: config.json, model.safetensors, tokenizer.json or vocab.txt, and sentence-transformers' files.

        Pooler and heads are left out, as the server leaves them. ValueError names the file, and the tensor that is missing or has another shape.
        """
        files = _read_files(folder)
        config = _config_of(files, os.fspath(folder))
        path = os.path.join(folder, "model.safetensors")
        tensors = safetensors.read(path)
        probe = "embeddings.word_embeddings.weight"
        prefix = "bert." if probe not in tensors and "bert." + probe in tensors else ""

        def tensor(name: str, *shape: int) -> np.ndarray:
            stored = prefix + name
            if stored not in tensors and "LayerNorm" in name:  # Older checkpoints.
                stored = stored.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            if stored not in tensors or tensors[stored].shape != shape:
                found = f"has shape {list(tensors[stored].shape)}, not {list(shape)}" if stored in tensors else "is missing"
                raise ValueError(f"{path}: tensor {stored!r} {found}")
            return tensors[stored]

        # Before memory is taken for the sizes that config.json claims.
        tensor(probe, config.vocabulary_size, config.hidden_size)
        tensor("embeddings.position_embeddings.weight", config.max_positions, config.hidden_size)
        tensor(f"encoder.layer.{config.layer_count - 1}.intermediate.dense.weight", config.intermediate_size, config.hidden_size)
        encoder = cls(config)
        encoder._files = files
        with torch.no_grad():
            for name, parameter in encoder.named_parameters():
                parameter.copy_(torch.from_numpy(tensor(name, *parameter.shape).astype(np.float32)))
        try:
            encoder._tokenizer = _make_tokenizer(files, os.fspath(folder), config.max_length)
        except ImportError:
            pass  # tokenize() says so.
        return encoder.eval()

    @property
    def dim(self) -> int:
        return self.config.hidden_size

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Vectors of token sequences.

        Parameters
        ----------
        input_ids : torch.Tensor
            [sequences, tokens] int64, special tokens included; at most max_positions tokens.
        attention_mask : torch.Tensor, optional
            [sequences, tokens] bool or 0 and 1: which are no padding. Default: all.

        Returns
        -------
        torch.Tensor
            [sequences, dim].
        """
        if input_ids.ndim != 2 or input_ids.shape[1] > self.config.max_positions:
            raise ValueError(f"input_ids has shape {list(input_ids.shape)}, not [sequences, tokens] of at most {self.config.max_positions} tokens")
        mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        hidden = self.embeddings(input_ids)
        # Added to the scores: nothing is looked at that is padding.
        bias = torch.zeros(mask.shape, dtype=hidden.dtype, device=hidden.device).masked_fill(~mask, torch.finfo(hidden.dtype).min)[:, None, None, :]
        for layer in self.encoder.layer:
            hidden = layer(hidden, bias)
        if self.config.pooling == "cls":
            vectors = hidden[:, 0]
        elif self.config.pooling == "max":
            vectors = hidden.masked_fill(~mask[:, :, None], torch.finfo(hidden.dtype).min).amax(1)
        else:
            weights = mask[:, :, None].to(hidden.dtype)
            vectors = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
        return F.normalize(vectors, dim=1, eps=1e-12) if self.config.normalize else vectors

    def tokenize(self, texts: Sequence[str | Passage] | str | Passage, role: str = "PASSAGE") -> dict[str, torch.Tensor]:
        """What forward() takes, on this module's device: prefixed, truncated to max_length, padded to the longest.

        A Passage stands for `title + " " + text`, as on the server. One text alone is taken as a list of one. ImportError without the package `tokenizers`.
        """
        if role.upper() not in ("QUERY", "PASSAGE"):
            raise ValueError(f"role is {role!r}, not QUERY or PASSAGE")
        prefix = self.config.query_prefix if role.upper() == "QUERY" else self.config.passage_prefix
        if self._tokenizer is None:
            self._tokenizer = _make_tokenizer(self._files, "", self.config.max_length)
            if self._tokenizer is None:
                raise ValueError("this encoder was not loaded from a checkpoint with a tokenizer")
        encodings = self._tokenizer.encode_batch([prefix + _text_of(text) for text in ([texts] if isinstance(texts, (str, Passage)) else texts)])
        return pad([encoding.ids for encoding in encodings], self.embeddings.word_embeddings.weight.device)

    def embed(self, texts: Sequence[str | Passage] | str | Passage, role: str = "PASSAGE") -> torch.Tensor:
        """Vectors of texts, [texts, dim], differentiable in the parameters. One batch: its memory grows with texts times the longest one's tokens."""
        return self(**self.tokenize(texts, role))

    def freeze_but_last(self, layers: int) -> None:
        """Lets only the last `layers` layers learn, 0 to all of them; embeddings learn with none of them frozen only where this is not called."""
        if not 0 <= layers <= self.config.layer_count:
            raise ValueError(f"layers is {layers}, it must lie in [0, {self.config.layer_count}]")
        self.requires_grad_(False)
        for layer in self.encoder.layer[self.config.layer_count - layers:]:
            layer.requires_grad_(True)

    def add_adapters(self, rank: int = 8, alpha: float = 16.0, targets: Iterable[str] = ("query", "value"), dropout: float = 0.0) -> None:
        """Freezes everything, and adds low-rank adapters to linear layers (Hu et al. 2021), which begin as no change.

        Parameters
        ----------
        rank : int
        alpha : float
            The change of a weight is alpha / rank * B A.
        targets : iterable of str
            Ends of names: "query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense".
        dropout : float
            Of the adapters' inputs, in training.

        Raises
        ------
        ValueError
            Also where there are adapters: merge_adapters() comes first.
        """
        if any(isinstance(module, _AdaptedLinear) for module in self.modules()):
            raise ValueError("there are adapters already: merge_adapters() adds them to the weights, so that others can be added")
        if rank < 1:
            raise ValueError(f"rank is {rank}, the least is 1")
        targets = list(targets)
        for target in targets:
            if target not in _LINEAR_NAMES:
                raise ValueError(f"target {target!r} is not one of {', '.join(_LINEAR_NAMES)}")
        self.requires_grad_(False)
        for name, module in list(self.named_modules()):
            # "output.dense" ends the attention's too.
            matches = [target for target in targets if name.endswith("." + target)]
            if isinstance(module, nn.Linear) and any(target != "output.dense" or "attention" not in name for target in matches):
                parent, _, last = name.rpartition(".")
                setattr(self.get_submodule(parent), last, _AdaptedLinear(module, rank, alpha, dropout))

    def merge_adapters(self) -> None:
        """Adds the adapters to the weights and takes them out. Everything stays frozen."""
        for name, module in list(self.named_modules()):
            if isinstance(module, _AdaptedLinear):
                parent, _, last = name.rpartition(".")
                setattr(self.get_submodule(parent), last, module.merged())

    def tensors(self) -> dict[str, np.ndarray]:
        """The checkpoint's tensors, float32, adapters merged."""
        merged = {name + ".weight": module.merged_weight() for name, module in self.named_modules() if isinstance(module, _AdaptedLinear)}
        return {name: merged.get(name, value).detach().cpu().float().numpy() for name, value in self.state_dict().items() if ".adapter_" not in name}

    def weights(self) -> bytes:
        """model.safetensors, adapters merged: what Client.publish_encoder sends. ValueError where a value is not finite, which the server refuses."""
        tensors = self.tensors()
        for name, values in tensors.items():
            if not np.isfinite(values).all():
                raise ValueError(f"tensor {name!r} has a value that is not finite")
        return safetensors.dumps(tensors)

    def export(self, folder: str | os.PathLike[str]) -> None:
        """Writes a checkpoint's folder that the server takes; files that lie there are replaced, each whole. Adapters are merged in it, not here."""
        if not self._files:
            raise ValueError("this encoder was not loaded from a checkpoint, so that it has no tokenizer to export")
        for path, data in {**self._files, "model.safetensors": self.weights()}.items():
            target = os.path.join(folder, path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=os.path.dirname(target), prefix=".export-", delete=False) as file:
                try:
                    file.write(data)
                    os.fchmod(file.fileno(), 0o644)
                    file.close()
                    os.replace(file.name, target)
                except BaseException:
                    os.unlink(file.name)
                    raise


def pad(ids: Sequence[Sequence[int]], device: Any = None) -> dict[str, torch.Tensor]:
    """Token ids of sequences as what BertEncoder.forward takes: [sequences, longest], and which of them are no padding."""
    width = max((len(row) for row in ids), default=0)
    input_ids = torch.zeros(len(ids), width, dtype=torch.int64)
    mask = torch.zeros(len(ids), width, dtype=torch.bool)
    for row, values in enumerate(ids):
        input_ids[row, :len(values)] = torch.tensor(values, dtype=torch.int64)
        mask[row, :len(values)] = True
    return {"input_ids": input_ids.to(device), "attention_mask": mask.to(device)}


class _Embeddings(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocabulary_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_positions, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocabulary_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        positions = self.position_embeddings.weight[:input_ids.shape[1]]
        return self.dropout(self.LayerNorm(self.word_embeddings(input_ids) + positions + self.token_type_embeddings.weight[0]))


class _Layers(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList([_Layer(config) for _ in range(config.layer_count)])


class _Layer(nn.Module):
    """One post-norm layer."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.intermediate = _Intermediate(config)
        self.output = _Output(config.intermediate_size, config)

    def forward(self, hidden: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        hidden = self.attention.output(self.attention.self(hidden, bias), hidden)
        return self.output(self.intermediate(hidden), hidden)


class _Attention(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.self = _Heads(config)
        self.output = _Output(config.hidden_size, config)


class _Heads(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.head_count = config.head_count
        self.dropout = config.attention_dropout

    def forward(self, hidden: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        shape = (hidden.shape[0], hidden.shape[1], self.head_count, hidden.shape[2] // self.head_count)
        query, key, value = (linear(hidden).view(shape).transpose(1, 2) for linear in (self.query, self.key, self.value))
        dropout = self.dropout if self.training else 0.0
        if hasattr(F, "scaled_dot_product_attention"):
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype), dropout_p=dropout)
        else:
            scores = query @ key.transpose(2, 3) / shape[3] ** 0.5 + bias
            attended = F.dropout(torch.softmax(scores, 3), dropout) @ value
        return attended.transpose(1, 2).reshape(hidden.shape)


class _Intermediate(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.dense(hidden))


class _Output(nn.Module):
    def __init__(self, inputs: int, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, inputs: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(residual + self.dropout(self.dense(inputs)))


class _AdaptedLinear(nn.Linear):
    """A linear layer whose weight is frozen, plus a low-rank change of it that learns."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, dropout: float) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.scale = alpha / rank
        self.dropout = dropout
        self.adapter_a = nn.Parameter(torch.empty(rank, linear.in_features, device=linear.weight.device, dtype=linear.weight.dtype))
        self.adapter_b = nn.Parameter(torch.zeros(linear.out_features, rank, device=linear.weight.device, dtype=linear.weight.dtype))
        nn.init.kaiming_uniform_(self.adapter_a, a=5**0.5)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        change = F.linear(F.linear(F.dropout(inputs, self.dropout, self.training), self.adapter_a), self.adapter_b)
        return F.linear(inputs, self.weight, self.bias) + self.scale * change

    def merged_weight(self) -> torch.Tensor:
        return (self.weight + self.scale * (self.adapter_b @ self.adapter_a)).detach()

    def merged(self) -> nn.Linear:
        linear = nn.Linear(self.in_features, self.out_features, device=self.weight.device, dtype=self.weight.dtype)
        linear.weight = nn.Parameter(self.merged_weight(), requires_grad=False)
        linear.bias = self.bias
        return linear


def _text_of(text: str | Passage) -> str:
    if isinstance(text, Passage):
        return f"{text.title} {text.text}" if text.title else text.text
    if not isinstance(text, str):
        raise TypeError(f"a text is a {type(text).__name__}, not a str or a Passage")
    return text


def _make_tokenizer(files: dict[str, bytes], folder: str, max_length: int) -> Any:
    """None where the checkpoint has none. ValueError names the file that is none, ImportError the package that is missing."""
    try:
        import tokenizers
    except ImportError:
        raise ImportError("texts need the package tokenizers (pip install tokenizers); BertEncoder.forward takes token ids without it") from None
    path = next((path for path in ("tokenizer.json", "vocab.txt") if path in files), None)
    if path is None:
        return None
    lowercase = _ConfigFile(files, folder, "tokenizer_config.json").get("do_lower_case", bool, True)
    try:
        text = files[path].decode()
        if path == "tokenizer.json":
            tokenizer = tokenizers.Tokenizer.from_str(text)
        else:
            tokenizer = tokenizers.BertWordPieceTokenizer({word: number for number, word in enumerate(text.splitlines())}, lowercase=lowercase)
    except Exception as error:  # noqa: BLE001 - what the package raises.
        raise ValueError(f"{os.path.join(folder, path)} is no tokenizer: {error}") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer


def _read_files(folder: str | os.PathLike[str]) -> dict[str, bytes]:
    files = {}
    for path in _OTHER_FILES:
        name = os.path.join(folder, path)
        if os.path.exists(name):
            with open(name, "rb") as file:
                files[path] = file.read()
    return files


class _ConfigFile:
    """One of a checkpoint's files, JSON; empty where it is not there. What it refuses is a ValueError that names it."""

    def __init__(self, files: dict[str, bytes], folder: str, path: str, kind: type = dict) -> None:
        self.path = os.path.join(folder, path)
        try:
            self.content = json.loads(files[path].decode()) if path in files else kind()
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.path} is not JSON: {error}") from None
        if not isinstance(self.content, kind):
            raise self.invalid("not a JSON " + ("object" if kind is dict else "array"))

    def invalid(self, what: str) -> ValueError:
        return ValueError(f"{self.path}: {what}")

    def get(self, key: str, kind: type, otherwise: Any) -> Any:
        """`otherwise` where it is missing or null."""
        value = self.content.get(key)
        if value is None:
            return otherwise
        if not isinstance(value, kind):
            raise self.invalid(f"{key} is {str(value)[:100]!r}, not a JSON {_JSON_NAMES[kind]}")
        return value

    def integer(self, key: str, least: int, most: int, otherwise: int | None = None) -> int:
        value = self.content.get(key)
        if value is None and otherwise is not None:
            return otherwise
        if value is None:
            raise self.invalid(f"{key} is missing")
        if type(value) is not int or not least <= value <= most:
            raise self.invalid(f"{key} is {str(value)[:100]!r}, it must be a whole number in [{least}, {most}]")
        return value

    def fraction(self, key: str, otherwise: float) -> float:
        value = self.content.get(key)
        if value is None:
            return otherwise
        if type(value) not in (int, float) or not 0 <= value < 1:
            raise self.invalid(f"{key} is {str(value)[:100]!r}, it must be a number in [0, 1)")
        return float(value)


_JSON_NAMES = {str: "string", bool: "boolean", dict: "object"}


def _config_of(files: dict[str, bytes], folder: str) -> BertConfig:
    """Within the limits of the server."""
    if "config.json" not in files:
        raise ValueError(f"there is no {os.path.join(folder, 'config.json')}")
    config = _ConfigFile(files, folder, "config.json")
    for key, only, otherwise in (("model_type", "bert", ""), ("hidden_act", "gelu", "gelu"), ("position_embedding_type", "absolute", "absolute")):
        value = config.get(key, str, otherwise)
        if value != only:
            raise config.invalid(f"{key} {value[:100]!r} is not supported, only {only} is")
    if config.get("is_decoder", bool, False):
        raise config.invalid("is_decoder is true, only encoders are supported")
    hidden_size, head_count = config.integer("hidden_size", 1, 16384), config.integer("num_attention_heads", 1, 1024)
    if hidden_size % head_count:
        raise config.invalid(f"hidden_size {hidden_size} is not a multiple of num_attention_heads {head_count}")
    max_positions = config.integer("max_position_embeddings", 3, 65536)
    kinds = _module_kinds(files, folder)
    prompts_file = _ConfigFile(files, folder, "config_sentence_transformers.json")
    prompts = prompts_file.get("prompts", dict, {})
    for name, prompt in prompts.items():
        if not isinstance(prompt, str):
            raise prompts_file.invalid(f"prompt {name!r} is not a string")
    fallback = prompts.get(prompts_file.get("default_prompt_name", str, ""), "")
    max_length = _ConfigFile(files, folder, "sentence_bert_config.json").integer("max_seq_length", 3, 1 << 30, 0)
    if not max_length:
        allowed = _ConfigFile(files, folder, "tokenizer_config.json").content.get("model_max_length")  # Often 1e30.
        max_length = int(allowed) if type(allowed) in (int, float) and 3 <= allowed < max_positions else max_positions
    return BertConfig(
        hidden_size=hidden_size, layer_count=config.integer("num_hidden_layers", 1, 256), head_count=head_count,
        intermediate_size=config.integer("intermediate_size", 1, 65536), vocabulary_size=config.integer("vocab_size", 1, 4 << 20),
        max_positions=max_positions, type_vocabulary_size=config.integer("type_vocab_size", 1, 1024, 2),
        layer_norm_epsilon=config.fraction("layer_norm_eps", 1e-12), dropout=config.fraction("hidden_dropout_prob", 0.1),
        attention_dropout=config.fraction("attention_probs_dropout_prob", 0.1), max_length=min(max_length, max_positions),
        pooling=_pooling_of(_ConfigFile(files, folder, "1_Pooling/config.json")) if kinds else "mean", normalize="Normalize" in kinds,
        query_prefix=prompts.get("query", fallback),
        passage_prefix=next((prompts[name] for name in ("document", "passage", "corpus") if name in prompts), fallback))


def _module_kinds(files: dict[str, bytes], folder: str) -> list[str]:
    """Of sentence-transformers, in order; none where there is no modules.json."""
    if "modules.json" not in files:
        return []
    modules = _ConfigFile(files, folder, "modules.json", list)
    if not all(isinstance(module, dict) and isinstance(module.get("type"), str) for module in modules.content):
        raise modules.invalid("a module has no type")
    kinds = [module["type"].rpartition(".")[2] for module in modules.content]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise modules.invalid("the modules are not Transformer, Pooling and perhaps Normalize, in this order")
    return kinds


def _pooling_of(config: _ConfigFile) -> str:
    named = config.get("pooling_mode", str, "")
    modes = [named] if named else []
    modes += [key[len("pooling_mode_"):].replace("_tokens", "").replace("_token", "") for key in config.content
              if key.startswith("pooling_mode_") and config.get(key, bool, False)]
    if len(modes) != 1 or modes[0] not in ("mean", "cls", "max"):
        raise config.invalid(f"pooling mode {modes[0] if len(modes) == 1 else f'of {len(modes)} names'} is not supported, only mean, cls and max are")
    return modes[0]
