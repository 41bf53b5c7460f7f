"""Prints how long an upsert of one passage takes to be visible, beside the encoder's own time, and what sustained upserts are bound by.

    LOCI_SERVER=127.0.0.1:7440 PYTHONPATH=tests/integration python tests/load/upsert_latency.py [--count N]

One client upserts a passage of a short text and then reads it. Then batches of 64 are upserted, and as many texts
are only encoded, in turns.
"""

import argparse
import statistics
import time

from loci_server import ReflectionClient, ServerProcess


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    count = parser.parse_args().count
    server = ServerProcess()
    client = ReflectionClient(server.address)
    store = "upsert-latency"
    encode = client.call("RetrievalService.Encode", texts=["warm up"])
    dim = encode.vectors.cols
    client.call("AdminService.CreateStore", store=store)
    visible, beside, seen = [], [], 0
    for i in range(count):
        text = f"a short text about the harbour of town number {i}"
        passage = client.message("Passage", id=f"p{i}", text=text)
        began = time.perf_counter()
        reply = client.call("AdminService.UpsertPassages", store=store, passages=[passage])
        found = client.call("AdminService.GetPassages", store=store, ids=[f"p{i}"])
        visible.append(1e3 * (time.perf_counter() - began))
        timings = reply.timings
        beside.append(visible[-1] - 1e-3 * (timings.tokenize_us + timings.queue_us + timings.encode_us))
        seen += found.passages[0].text == text and found.revision >= reply.revision

    def line(name, values):
        values = sorted(values)
        print(f"{name}: median {statistics.median(values):.2f} ms, p99 {values[int(0.99 * (len(values) - 1))]:.2f} ms, "
              f"most {values[-1]:.2f} ms", flush=True)

    line("upsert of one passage until it was read", visible)
    line("the same beside the encoder (tokenize, queue, encode)", beside)
    print(f"{seen} of {count} were there at the first look", flush=True)
    upsert_s = encode_s = 0.0
    for batch in range(10):
        texts = [f"a short text about the harbour of town number {batch} {i}" for i in range(64)]
        passages = [client.message("Passage", id=f"b{batch}.{i}", text=text) for i, text in enumerate(texts)]
        began = time.perf_counter()
        client.call("AdminService.UpsertPassages", store=store, passages=passages)
        upsert_s += time.perf_counter() - began
        began = time.perf_counter()
        client.call("RetrievalService.Encode", texts=[text + "!" for text in texts])
        encode_s += time.perf_counter() - began
    print(f"sustained: {640 / upsert_s:.0f} upserts/s, {640 / encode_s:.0f} texts/s only encoded ({dim} dimensions): upserts take "
          f"{upsert_s / encode_s:.2f} times the time of the encoder", flush=True)
    client.call("AdminService.DeleteStore", store=store, confirm_name=store)
    client.close()
    server.stop()


if __name__ == "__main__":
    main()
