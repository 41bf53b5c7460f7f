"""Writes tests/fuzz/corpus/request: a few good and bad requests of each kind, as request_fuzz.cc reads them.

Run from the root of the repository, after `protoc --python_out=DIR proto/loci/v1/*.proto`, with PYTHONPATH=DIR.
"""

import math
import pathlib
import struct

from proto.loci.v1 import admin_pb2, common_pb2, retrieval_pb2, training_pb2

FOLDER = pathlib.Path("tests/fuzz/corpus/request")


def write(name: str, kind: int, message) -> None:
    (FOLDER / name).write_bytes(bytes([kind]) + message.SerializeToString())


def matrix(rows: int, cols: int, values: list[float], kind: int = 1, scales: tuple[float, ...] = ()) -> common_pb2.Matrix:
    code = {1: "f", 2: "e", 4: "b", 5: "d"}[kind]
    return common_pb2.Matrix(rows=rows, cols=cols, type=kind, data=struct.pack(f"<{len(values)}{code}", *values), scales=scales)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    query = retrieval_pb2.Query
    search = retrieval_pb2.SearchRequest
    write("search_text", 0, search(store="packages", queries=[query(text="which package turns PDF into text?")], top_k=10))
    write("search_vector", 0, search(queries=[query(vector=matrix(1, 3, [0.6, 0.8, 0]))], top_k=10_000, generation="20261121-094142-3f2a"))
    write("search_float16", 0, search(queries=[query(vector=matrix(1, 2, [0.5, -0.5], 2))], top_k=1))
    write("search_int8", 0, search(queries=[query(vector=matrix(1, 3, [1, -2, 3], 4, (0.5,)))], top_k=1))
    write("search_float64", 0, search(queries=[query(vector=matrix(1, 2, [1e300, 1], 5))], top_k=1))
    write("search_nan", 0, search(queries=[query(vector=matrix(1, 2, [math.nan, 1]))], top_k=1))
    write("search_shape", 0, search(queries=[query(vector=matrix(1 << 62, 4, [1, 1]))], top_k=1))
    write("search_many", 0, search(queries=[query(text="q")] * 101, top_k=10_000))
    write("search_options", 0, search(queries=[query(text="q")], top_k=1, options=retrieval_pb2.SearchOptions(exact=True, nprobe=4, ef_search=64, rescore_factor=8)))
    write("search_filter", 0, search(queries=[query(text="q")], top_k=-1, filter="year > 2000"))
    write("search_path", 0, search(store="../../etc", generation="../x", queries=[query(text="q")], top_k=1))
    write("encode", 1, retrieval_pb2.EncodeRequest(texts=["", "text", "é\u200b漢字"], role=1, truncation=2, vector_type=4))
    write("encode_other", 1, retrieval_pb2.EncodeRequest(encoder="0123456789abcdef:fedcba9876543210", texts=["x"]))
    write("answer", 2, retrieval_pb2.AnswerRequest(store="s", question="why?", top_k=3, max_answers=2, reader="sentence"))
    write("header", 3, admin_pb2.IngestHeader(store="s", mode=1, index=admin_pb2.IndexSpec(factory="IVF64,Flat", vector_type=2)))
    write("header_upsert", 3, admin_pb2.IngestHeader(mode=2, encoder_fingerprint="0123456789abcdef"))
    passages = [common_pb2.Passage(id="a", title="t", text="x", document_id="d", chunk_index=1), common_pb2.Passage(id="b", text="y")]
    passages[0].metadata["year"].int64_value = 2001
    passages[0].metadata["score"].double_value = math.inf
    write("batch", 4, admin_pb2.PassageBatch(passages=passages, vectors=matrix(2, 2, [1, 0, 0, 1])))
    write("upsert", 5, admin_pb2.UpsertPassagesRequest(store="s", passages=passages[1:]))
    write("upsert_bad", 5, admin_pb2.UpsertPassagesRequest(store="s", passages=passages))
    write("get", 6, admin_pb2.GetPassagesRequest(store="s", ids=["a", "b"], include_vectors=True))
    publish = training_pb2.PublishHeader
    write("publish", 9, publish(store="s", parent_fingerprint="0123456789abcdef:fedcba9876543210", halves=1, job_name="job", metrics={"loss": 0.5},
                                size_bytes=90_000_000, sha256="0123456789abcdef" * 4, max_encoder_share=0.25))
    write("publish_there", 9, publish(store="s", fingerprint="0123456789abcdef:fedcba9876543210", no_activate=True))
    write("publish_bad", 9, publish(store="../x", parent_fingerprint="\u00e9" * 40, halves=9, metrics={"": math.nan}, size_bytes=-1, sha256="F" * 64))


if __name__ == "__main__":
    main()
