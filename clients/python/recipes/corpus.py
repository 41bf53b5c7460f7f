"""What the recipes read: passages, questions and their answers, and the token states of a frozen encoder, cached on disk."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np
import torch

PASSAGE_TOKENS = 64
QUESTION_TOKENS = 32
HELD_BACK_ARTICLES = 44
SQUAD = "squad11_train/"  # What ids of the reading data's passages begin with in the mixed corpus.


def read_jsonl(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def shuffled(items: Sequence[str], salt: str = "") -> list[str]:
    """In an order that depends on the items and `salt` alone, whatever the library and its version."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{salt}\n{item}".encode()).digest())


@dataclass
class Passage:
    id: str
    title: str
    text: str

    def encoded_text(self) -> str:
        """What an encoder of the server sees."""
        return f"{self.title} {self.text}" if self.title else self.text


@dataclass
class Question:
    id: str
    passage: str  # The id of the one that it was asked about.
    text: str
    answer: str
    start: int  # Where the answer begins in that passage's text, in characters.


class Data:
    """The folder of evaluation and training data: `passages.jsonl.gz` and `squad_train/`.

    `held_back` are the titles of the articles that nothing is trained with.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.passages = {row["id"]: Passage(row["id"], row["title"], row["text"]) for row in read_jsonl(folder / "passages.jsonl.gz")}
        self.squad = [id for id in self.passages if id.startswith(SQUAD)]
        self.held_back = set(shuffled(sorted({self.passages[id].title for id in self.squad}), "held back")[:HELD_BACK_ARTICLES])

    def is_held_back(self, passage: str) -> bool:
        return passage.startswith(SQUAD) and self.passages[passage].title in self.held_back

    def articles(self) -> dict[str, list[str]]:
        """Ids of the passages of each article of the reading data, in the article's order."""
        result: dict[str, list[str]] = {}
        for id in self.squad:
            result.setdefault(self.passages[id].title, []).append(id)
        return result

    def questions(self) -> list[Question]:
        return [
            Question(row["id"], SQUAD + row["pid"], row["question"], row["answers"][0]["text"], row["answers"][0]["start"])
            for row in read_jsonl(self.folder / "squad_train" / "qas.jsonl.gz")
        ]


class Tokens:
    """WordPiece tokens of texts, without padding."""

    def __init__(self, model: pathlib.Path) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.cls, self.sep, self.mask, self.pad = (self.tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]", "[MASK]", "[PAD]"))
        size = self.tokenizer.get_vocab_size()
        self.continues = np.array([self.tokenizer.id_to_token(i).startswith("##") for i in range(size)])  # No word begins with these.

    def encode(self, texts: Sequence[str]) -> list[Any]:
        """Encodings without [CLS] and [SEP]; `ids` and `offsets` in characters."""
        return self.tokenizer.encode_batch(list(texts), add_special_tokens=False)

    def cut(self, passage: Passage, tokens: int = PASSAGE_TOKENS) -> Passage:
        """The passage with the text that `tokens` tokens hold: title, [CLS] and [SEP] count."""
        text = passage.encoded_text()
        offsets = self.encode([text])[0].offsets
        if len(offsets) <= tokens - 2:
            return passage
        end = offsets[tokens - 3][1] - (len(text) - len(passage.text))
        return Passage(passage.id, passage.title, passage.text[: max(end, 1)])


class Progress:
    """One line that moves on a terminal; a plain line every ten seconds elsewhere. On standard error."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self.began = self.printed = time.monotonic()

    def __call__(self, count: int = 1, note: str = "") -> None:
        self.done += count
        now = time.monotonic()
        last = self.done >= self.total
        if now - self.printed < (0.2 if sys.stderr.isatty() else 10) and not last:
            return
        self.printed = now
        left = (now - self.began) / max(self.done, 1) * (self.total - self.done)
        line = f"{self.what}: {self.done}/{self.total}, {f'{left:.0f} s left' if not last else f'{now - self.began:.0f} s'} {note}"
        if sys.stderr.isatty():
            print(f"\r\x1b[K{line}", end="\n" if last else "", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)


def padded(rows: Sequence[Sequence[int]], length: int) -> np.ndarray:
    """[rows, length] int32, zeros where a row has ended; longer rows are cut."""
    result = np.zeros((len(rows), length), np.int32)
    for row, values in zip(result, rows):
        row[: min(len(values), length)] = values[:length]
    return result


class StateCache:
    """Token states of a frozen encoder, one row of `length` tokens a text, in files that outlive the process.

    `encode(ids, mask)` maps [n, L] token ids (int64) and mask (bool) to the last layer's states [n, L, dim]; it is called for texts that the
    files do not have. Files (delete the folder to begin anew): `states.f16` [rows, length, dim], `vectors.f32` [rows, dim] of unit length (the mean
    over a row's tokens), `tokens.i32` [rows, length], and the key of row i in line i of `keys`. Rows that `keys` does not name yet
    are overwritten, so a process that is killed leaves a valid cache. Processes may share it: one adds rows at a time. Used by one thread.
    """

    def __init__(self, folder: pathlib.Path, tokens: Tokens, encode: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], length: int, dim: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.tokens, self.encode, self.length, self.dim = folder, tokens, encode, length, dim
        self._load()

    def _load(self) -> None:
        keys = self.folder / "keys"
        lines = keys.read_text().split("\n")[:-1] if keys.exists() else []  # What follows the last line's end was cut off by a kill.
        self.row_of = {key: row for row, key in enumerate(lines)}
        self._map()

    def _map(self) -> None:
        def mapped(name: str, type: str, *shape: int) -> np.ndarray:
            if not self.row_of:
                return np.zeros((0, *shape), type)
            return np.memmap(self.folder / name, type, "r", shape=(len(self.row_of), *shape))

        self.states = mapped("states.f16", "<f2", self.length, self.dim)
        self.vectors = mapped("vectors.f32", "<f4", self.dim)
        self.token_ids = mapped("tokens.i32", "<i4", self.length)

    @staticmethod
    def key(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def rows(self, texts: Sequence[str], what: str = "encoding", batch: int = 64) -> np.ndarray:
        """Row numbers of texts; what is missing is encoded and added."""
        keys = [self.key(text) for text in texts]
        if any(key not in self.row_of for key in keys):
            with open(self.folder / "lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._load()  # What others have added.
                missing = {key: text for key, text in zip(keys, texts) if key not in self.row_of}
                if missing:
                    self._add(missing, what, batch)
        return np.array([self.row_of[key] for key in keys], np.int64)

    def _add(self, missing: dict[str, str], what: str, batch: int) -> None:
        progress = Progress(what, len(missing))
        names = list(missing)
        # Texts of one length go together: padding costs as much as words do.
        chunk = batch * 32
        for first in range(0, len(names), chunk):
            part = names[first : first + chunk]
            ids = [[self.tokens.cls, *encoding.ids[: self.length - 2], self.tokens.sep] for encoding in self.tokens.encode([missing[name] for name in part])]
            states = np.zeros((len(part), self.length, self.dim), "<f2")
            vectors = np.zeros((len(part), self.dim), "<f4")
            order = sorted(range(len(part)), key=lambda i: len(ids[i]))
            for begin in range(0, len(order), batch):
                rows = order[begin : begin + batch]
                length = len(ids[rows[-1]])
                mask = torch.tensor([[i < len(ids[row]) for i in range(length)] for row in rows])
                with torch.no_grad():
                    output = self.encode(torch.from_numpy(padded([ids[row] for row in rows], length).astype(np.int64)), mask)
                    mean = (output * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
                    vectors[rows] = torch.nn.functional.normalize(mean, dim=1).numpy()
                    states[rows, :length] = (output * mask[:, :, None]).numpy()
                progress(len(rows))
            at = len(self.row_of)
            self._write("states.f16", at * states[0].nbytes, states.tobytes())
            self._write("vectors.f32", at * vectors[0].nbytes, vectors.tobytes())
            self._write("tokens.i32", at * 4 * self.length, padded(ids, self.length).astype("<i4").tobytes())
            self._write("keys", at * (len(part[0]) + 1), "".join(name + "\n" for name in part).encode())
            self.row_of.update({name: at + i for i, name in enumerate(part)})
        self._map()

    def _write(self, name: str, at: int, data: bytes) -> None:
        path = self.folder / name
        with open(path, "r+b" if path.exists() else "w+b") as file:
            file.seek(at)
            file.write(data)


def find(tokens: np.ndarray, answer: Sequence[int], continues: np.ndarray) -> np.ndarray:
    """Where `answer` stands as whole words: [rows, length] bool, true at its first token. `tokens` is [rows, length]."""
    length = tokens.shape[1]
    found = np.zeros(tokens.shape, bool)
    places = length - len(answer)  # One token more is looked at: the word must end there.
    if places <= 0 or not len(answer):
        return found
    match = np.ones((tokens.shape[0], places), bool)
    for i, token in enumerate(answer):
        match &= tokens[:, i : i + places] == token
    match &= ~continues[tokens[:, len(answer) : len(answer) + places]]
    found[:, :places] = match
    return found
