"""Writes tests/golden/encoder.golden: token ids and vectors of real and odd texts, by transformers in float32.

    python tests/golden/make_encoder_golden.py MODEL_DIR PASSAGES.jsonl.gz tests/golden/encoder.golden

Made with transformers 5.23.0 and torch 2.15.0. Little-endian:

    file     := "LOCIENC1" sequence_count:int32 dim:int32 sequence*
    sequence := token_count:int32 token_ids:int32[token_count] vector:float32[dim]

A vector is the mean of BertModel's last hidden states over the tokens, divided by its length; texts are cut at 256 tokens, special
ones counted.
"""

import gzip
import json
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
    model_dir, passages, out = sys.argv[1:]
    print("transformers", transformers.__version__, "torch", torch.__version__)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_dir)
    model = transformers.BertModel.from_pretrained(model_dir, torch_dtype=torch.float32).eval()
    sequences = []
    with torch.inference_mode():
        for text in texts(passages):
            ids = tokenizer(text, truncation=True, max_length=256)["input_ids"]
            states = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
            vector = torch.nn.functional.normalize(states.mean(dim=0), dim=0)
            sequences.append((ids, vector.numpy().astype("<f4")))
    with open(out, "wb") as file:
        file.write(b"LOCIENC1" + struct.pack("<ii", len(sequences), model.config.hidden_size))
        for ids, vector in sequences:
            file.write(struct.pack("<i", len(ids)) + np.array(ids, dtype="<i4").tobytes() + vector.tobytes())
    print(len(sequences), "sequences of", sorted(len(ids) for ids, _ in sequences))


if __name__ == "__main__":
    main()
