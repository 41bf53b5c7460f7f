#!/usr/bin/env python3
"""Makes the goldens of encoder/tokenizer_test.cc from Hugging Face's `tokenizers` (0.23.3).

    python tests/golden/make_tokenizer_golden.py MODEL_FOLDER DATA_FOLDER

writes beside itself

tokenizer.golden.gz
    Strings and their ids, without special tokens around them, little-endian: uint32 count of strings; for each a uint32 length in
    bytes and a uint32 count of ids; then all strings in UTF-8, then all ids as uint16.
tokenizer_words.golden
    What normaliser and pre-tokenizer make of every code point, under several options. A line "clean chinese accents lower first last
    hash": FNV-1a (64 bits) of the words of probe(c) for all code points c of [first, last] (surrogates left out), each word followed
    by a line feed.

MODEL_FOLDER has tokenizer.json; DATA_FOLDER has cisi/corpus.jsonl.gz and the like (only some texts of it are taken).
"""

import gzip
import json
import pathlib
import random
import struct
import sys
import unicodedata

import tokenizers
from tokenizers import normalizers, pre_tokenizers

HERE = pathlib.Path(__file__).parent
OPTIONS = [(1, 1, 1, 1), (1, 1, 0, 1), (1, 1, 0, 0), (0, 0, 1, 1), (0, 1, 0, 0), (1, 0, 1, 0), (0, 0, 0, 0)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
NASTY = [0, 9, 10, 11, 12, 13, 0x1C, 0x7F, 0x85, 0xA0, 0xAD, 0x300, 0x301, 0x323, 0x34F, 0x378, 0x130, 0x131, 0x1E9E, 0x3A3, 0x3C2,
         0x61D, 0x600, 0x180E, 0x200B, 0x200C, 0x200D, 0x200E, 0x2028, 0x2029, 0x202E, 0x2060, 0x20E3, 0x3000, 0x302A, 0x302E, 0x302F,
         0x3099, 0xAC00, 0xD7A3, 0x1100, 0x1161, 0x11A8, 0xE000, 0xF8FF, 0xF900, 0xFA0E, 0xFB01, 0xFE0F, 0xFEFF, 0xFFF9, 0xFFFC, 0xFFFD,
         0xFFFE, 0xFFFF, 0x10400, 0x1100B, 0x11938, 0x1D15E, 0x1D165, 0x1D16D, 0x1D16E, 0x1F1E6, 0x1F3FB, 0x1F468, 0x1F600, 0x20000,
         0x2B820, 0x2CEB0, 0x2F800, 0x2FA1D, 0xE0001, 0xE0020, 0xE0100, 0xF0000, 0x10FFFF]


def code_points():
    return [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def real_texts(data, rng):
    out = []
    for name, count in (("cisi", 40), ("cranfield", 30), ("medline", 40), ("covidfaq", 30), ("stackfaq", 30), ("squad_train", 180)):
        with gzip.open(data / name / "corpus.jsonl.gz", "rt", encoding="utf-8") as f:
            texts = [json.loads(line)["text"] for line in f]
        out += rng.sample(texts, min(count, len(texts)))
        if (data / name / "queries.jsonl.gz").exists():
            with gzip.open(data / name / "queries.jsonl.gz", "rt", encoding="utf-8") as f:
                texts = [json.loads(line)["text"] for line in f]
            out += rng.sample(texts, min(60, len(texts)))
    with gzip.open(data / "passages.jsonl.gz", "rt", encoding="utf-8") as f:
        texts = [t for t in (json.loads(line)["text"] for line in f) if not t.isascii()]
    return out + rng.sample(texts, min(200, len(texts)))


def strings(vocabulary, data):
    rng = random.Random(20250101)
    every = code_points()
    assigned = [c for c in every if unicodedata.category(chr(c)) not in ("Cn", "Co")]
    # Every assigned code point inside a word, 16 to a string, and a few of each block of the others.
    for i in range(0, len(assigned), 16):
        yield " ".join("a" + chr(c) + "b" for c in assigned[i:i + 16])
    for first in range(0, 0x110000, 0x100):
        others = [c for c in range(first, first + 0x100) if unicodedata.category(chr(c)) in ("Cn", "Co")]
        if others:
            yield " ".join("a" + chr(c) + "b" for c in rng.sample(others, min(4, len(others))))
    # Small alphabets by themselves: what of them is in the vocabulary; and as upper case, doubled, or with marks.
    small = [c for c in assigned if not (0x3400 <= c < 0xA000 or 0xAC00 <= c < 0xD800 or 0x17000 <= c < 0x19000 or c >= 0x20000)]
    for i in range(0, len(small), 24):
        part = [chr(c) for c in small[i:i + 24]]
        yield " ".join(part)
        yield "".join(part)
        yield " ".join(c + "\u0301" + c + "\u0323" for c in part)
        yield " ".join(c.upper() + c.lower() + "x" for c in part)
    # Marks in every order.
    marks = [c for c in assigned if unicodedata.combining(chr(c)) or unicodedata.category(chr(c)) in ("Mc", "Me")]
    for _ in range(1200):
        yield "".join(chr(rng.choice(marks)) if rng.random() < 0.7 else chr(rng.choice(NASTY)) for _ in range(rng.randint(1, 14)))
    for _ in range(700):
        yield "".join(rng.choice("\u302e\u302f\U0001d165\U0001d16d\u0301\u0323\u0900\u3099\U0001d16e\U0001d15ea -\u200d") for _ in range(9))
    # Words of the vocabulary joined, cut and changed; around the length limit.
    pieces = list(vocabulary)
    for _ in range(2000):
        word = "".join(rng.choice(pieces).removeprefix("##") for _ in range(rng.randint(1, 5)))
        cut = rng.randint(0, len(word))
        yield rng.choice([word, word[:cut], word[cut:], word.title(), word + " " + word[:cut], word[:cut] + "\u00ad" + word[cut:]])
    for i in range(0, len(pieces), 40):
        yield " ".join(pieces[i:i + 40])
    for n in list(range(95, 106)) + [199, 200, 201, 1000]:
        for unit in ("a", "\u00e9", "\u4e2d", "\uac00", "\u1109\u1161", "x\u0301", "-", "\U00010400", "q\u200b", "1"):
            yield unit * n
            yield (unit * n)[:n] + " b"
    # Special tokens in the text.
    for a in SPECIAL + ["[SEP", "SEP]", "[sep]", "[[SEP]]", "[ SEP ]", "[MASK][CLS]", "[unused1]", "##s", "["]:
        for pattern in ("{}", " {} ", "x{}y", "{} x", "x {}", "{}{}", "\u0301{}\u0301", "\u302f{}\u302e", "\n{}\t", "\u4e2d{}\u4e2d"):
            yield pattern.format(a, a)
    for _ in range(300):
        yield "".join(rng.choice(SPECIAL + ["[", "]", "S", "SEP", " ", "[M", "\u00e9", "[S", "UNK]"]) for _ in range(rng.randint(1, 10)))
    yield from ("", " ", "\n", "\u0000", "\u200b", "\ufffd", "\u0301", "a" * 101 + "\u0301", "a" * 100 + "\u0301", "\u0130" * 100)
    # Mixtures of everything.
    for _ in range(3000):
        kinds = rng.choices([0, 1, 2, 3, 4, 5], k=rng.randint(1, 6))
        out = []
        for kind in kinds:
            if kind == 0:
                out.append(rng.choice(pieces).removeprefix("##"))
            elif kind == 1:
                out.append(" " * rng.randint(1, 2))
            elif kind == 2:
                out.append(chr(rng.choice(NASTY)))
            elif kind == 3:
                out.append(chr(rng.randint(0x20, 0x7E)) * rng.randint(1, 3))
            elif kind == 4:
                first = rng.choice(assigned)
                out.append("".join(chr(min(0x10FFFF, first + k)) for k in range(rng.randint(1, 4)) if not 0xD800 <= first + k < 0xE000))
            else:
                out.append(chr(rng.choice(every)))
        yield "".join(out)
    yield from real_texts(data, rng)


def probe(c):
    """The code point in a word, beside white space, and among marks below and above it. The test builds the same."""
    ch = chr(c)
    return f"X{ch}Y {ch} x\u0345{ch}\u0334\u302e{ch}\u302a"


def fnv1a(value, data):
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def word_ranges():
    first = 0
    while first < 0x110000:
        size = 0x800 if first < 0x20000 else 0x10000
        yield first, min(first + size, 0x110000) - 1
        first += size


def write_words(path):
    pre = pre_tokenizers.BertPreTokenizer()
    with open(path, "w", encoding="ascii") as out:
        for clean, chinese, accents, lower in OPTIONS:
            norm = normalizers.BertNormalizer(clean_text=bool(clean), handle_chinese_chars=bool(chinese), strip_accents=bool(accents),
                                              lowercase=bool(lower))
            for first, last in word_ranges():
                value = 0xCBF29CE484222325
                for c in range(first, last + 1):
                    if not 0xD800 <= c < 0xE000:
                        words = [w for w, _ in pre.pre_tokenize_str(norm.normalize_str(probe(c)))]
                        value = fnv1a(value, "".join(w + "\n" for w in words).encode())
                out.write(f"{clean} {chinese} {accents} {lower} {first:x} {last:x} {value:016x}\n")


def main():
    model, data = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    pieces = sorted(vocabulary, key=vocabulary.get)
    texts = list(dict.fromkeys(strings(pieces, data)))
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    raw = bytearray(struct.pack("<I", len(texts)))
    for text, encoding in zip(texts, encodings):
        raw += struct.pack("<II", len(text.encode("utf-8")), len(encoding.ids))
    raw += "".join(texts).encode("utf-8")
    for encoding in encodings:
        raw += struct.pack(f"<{len(encoding.ids)}H", *encoding.ids)
    packed = gzip.compress(bytes(raw), 9, mtime=0)
    (HERE / "tokenizer.golden.gz").write_bytes(packed)
    print(f"tokenizers {tokenizers.__version__}: {len(texts)} strings, {sum(len(e.ids) for e in encodings)} ids, {len(packed)} bytes")
    write_words(HERE / "tokenizer_words.golden")


if __name__ == "__main__":
    main()
