#!/usr/bin/env python3
"""Writes the goldens of tests/parity/encoder_parity_test.cc, by transformers in float32.

    tests/golden/make_encoder_golden.py MODEL_DIR PASSAGES.jsonl.gz tests/golden/encoder.golden
    bazel run //encoder:write_tiny_checkpoint -- FOLDER
    tests/golden/make_encoder_golden.py --tiny FOLDER tests/golden/encoder_tiny.golden

Made with transformers 5.23.0 and torch 2.15.0. Little-endian:

    file     := "LOCIENC1" sequence_count:int32 dim:int32 sequence*
    sequence := token_count:int32 token_ids:int32[token_count] vector:float32[dim]

encoder.golden: real and odd texts, cut at 256 tokens, special ones counted; a vector is the mean of BertModel's last hidden states over
the tokens, divided by its length. encoder_tiny.golden: random ids; a vector is the mean, the first and the largest of the hidden states,
one after the other and not divided, so that dim is three times the model's.
"""

import gzip
import json
import random
import struct
import sys

import numpy as np
import torch
import transformers


def texts(path: str) -> list[str]:
    passages = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            if number % 1000 == 7:
                record = json.loads(line)
                passages.append((record["title"] + " " + record["text"]).strip())
    odd = ["", " ", "a", "?", "Which package turns PDF into text?", "\u6f22\u5b57 \U0001f600 na\u00efve", "x" * 400, "the " * 300]
    return odd + passages[:44] + [" ".join(passages[i : i + 4]) for i in range(0, 32, 4)]


def main() -> None:
    tiny = sys.argv[1] == "--tiny"
    model_dir, *passages, out = sys.argv[2:] if tiny else sys.argv[1:]
    print("transformers", transformers.__version__, "torch", torch.__version__)
    model = transformers.BertModel.from_pretrained(model_dir, torch_dtype=torch.float32, add_pooling_layer=False).eval()
    if tiny:
        rng = random.Random(5)
        inputs = [[rng.randrange(model.config.vocab_size) for _ in range(n)] for n in (1, 2, 5, 7, 12, 17, 31, 33, 50, 64)]
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(model_dir)
        inputs = [tokenizer(text, truncation=True, max_length=256)["input_ids"] for text in texts(passages[0])]
    vectors = []
    with torch.inference_mode():
        for ids in inputs:
            states = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
            if tiny:
                vector = torch.cat([states.mean(dim=0), states[0], states.max(dim=0).values])
            else:
                vector = torch.nn.functional.normalize(states.mean(dim=0), dim=0)
            vectors.append(vector.numpy().astype("<f4"))
    with open(out, "wb") as file:
        file.write(b"LOCIENC1" + struct.pack("<ii", len(inputs), len(vectors[0])))
        for ids, vector in zip(inputs, vectors, strict=True):
            file.write(struct.pack("<i", len(ids)) + np.array(ids, dtype="<i4").tobytes() + vector.tobytes())
    print(len(inputs), "sequences of", sorted(len(ids) for ids in inputs))


if __name__ == "__main__":
    main()
