"""A store that follows the encoder that a training job publishes, by a client that knows the service from reflection alone.

The job goes on with what it leased, is told how stale that is, and a session opened after the swap has the new encoder; a server that is killed midway
goes on with the same job. The server is the binary in $LOCI_SERVER_BINARY, with the tiny encoder that $LOCI_WRITE_TINY_CHECKPOINT writes.
"""

from __future__ import annotations

import array
import hashlib
import os
import signal
import subprocess
import tempfile
import time
import unittest
import urllib.request
from typing import Any, Callable, Iterator

import grpc
from loci_server import ReflectionClient, ServerProcess, main, perturbed_checkpoint

COUNT = 30_000  # Passages, where a refresh is superseded long before it would end,
RESUMED_COUNT = 10_000  # and where it goes on to its end.
WORDS = "red blue house river music stone light seven".split()
DEADLINE_S = 600
SLOW = 0.02  # A share of the encoder at which a refresh is still under way when the test looks.


class RefreshTest(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="loci_refresh_")
        self.addCleanup(self.folder.cleanup)
        self.tiny = os.path.join(self.folder.name, "tiny")
        subprocess.run([os.environ["LOCI_WRITE_TINY_CHECKPOINT"], self.tiny], check=True)
        os.environ["LOCI_MODEL_DIR"] = self.tiny
        perturbed_checkpoint(self.tiny, os.path.join(self.folder.name, "trained"))
        perturbed_checkpoint(os.path.join(self.folder.name, "trained"), os.path.join(self.folder.name, "trained-more"))
        self.start()

    def fill(self, count: int) -> None:
        passages = [self.client.message("Passage", id=f"p{i:05d}", text=f"{WORDS[i % 8]} {WORDS[i // 8 % 8]} number {i}") for i in range(count)]
        self.client.ingest({"store": "s"}, [{"passages": passages[at:at + 1000]} for at in range(0, count, 1000)])
        self.old = self.client.call("AdminService.GetStore", store="s").store

    def start(self) -> None:
        self.server = ServerProcess(os.path.join(self.folder.name, "data"))
        self.client = ReflectionClient(self.server.address)

    def stop(self) -> None:
        self.client.close()
        self.assertEqual(self.server.stop(), 0)

    def publish(self, name: str, share: float) -> Any:
        with open(os.path.join(self.folder.name, name, "model.safetensors"), "rb") as file:
            weights = file.read()
        header = self.client.message("PublishHeader", store="s", halves=self.client.value("EncoderHalves", "ENCODER_HALVES_BOTH"), job_name=name,
                                     size_bytes=len(weights), sha256=hashlib.sha256(weights).hexdigest(), max_encoder_share=share)
        _, response = self.client.method_classes("TrainingService", "PublishEncoder")

        def requests() -> Iterator[Any]:
            yield self.client.message("PublishRequest", header=header)
            yield self.client.message("PublishRequest", weights=weights)

        stub = self.client.channel.stream_unary("/loci.v1.TrainingService/PublishEncoder", lambda message: message.SerializeToString(), response.FromString)
        return stub(requests(), timeout=DEADLINE_S)

    def publish_again(self, fingerprint: str) -> Any:
        """One that the server has, without its weights."""
        header = self.client.message("PublishHeader", store="s", fingerprint=fingerprint)
        _, response = self.client.method_classes("TrainingService", "PublishEncoder")
        stub = self.client.channel.stream_unary("/loci.v1.TrainingService/PublishEncoder", lambda message: message.SerializeToString(), response.FromString)
        return stub(iter([self.client.message("PublishRequest", header=header)]), timeout=DEADLINE_S)

    def ended(self, job: str) -> Any:
        running = (self.state("RUNNING"), self.state("INTERRUPTED"))
        return self.until(lambda: (info := self.job(job)).state not in running and info, "the job did not end")

    def job(self, job: str) -> Any:
        return self.client.call("AdminService.GetJob", job=job)

    def state(self, name: str) -> int:
        return self.client.value("JobState", "JOB_STATE_" + name)

    def retrieve(self, session: str) -> Any:
        dim = len(self.vector)
        query = self.client.message("Matrix", rows=1, cols=dim, type=self.client.value("VectorType", "VECTOR_TYPE_FLOAT32"),
                                    data=array.array("f", self.vector).tobytes())
        return self.client.call("TrainingService.Retrieve", session_id=session, query_vectors=query, top_k=5, include_vectors=True)

    def open(self) -> Any:
        session = self.client.call("TrainingService.OpenSession", store="s", lease_ms=600_000)
        self.vector = [1.0] * session.dim
        return session

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + DEADLINE_S
        while not (value := condition()):
            self.assertLess(time.monotonic(), deadline, what)
            time.sleep(0.01)
        return value

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://{self.server.metrics_address}/metrics", timeout=10) as reply:
            return reply.read().decode()

    def test_a_session_goes_on_with_the_old_and_is_told_how_stale_that_is(self) -> None:
        self.fill(COUNT)
        session = self.open()
        before = self.retrieve(session.session_id)
        self.assertEqual((before.staleness.drift, before.staleness.drift_sample_count), (0, 0))
        published = self.publish("trained", SLOW)
        self.assertTrue(published.job)
        self.assertEqual(self.publish("trained", SLOW).job, published.job, "the same is under way")

        def told() -> Any:
            reply = self.retrieve(session.session_id)
            return reply if reply.staleness.drift_sample_count > 0 else None

        stale = self.until(told, "no drift was told")
        self.assertEqual(self.job(published.job).state, self.state("RUNNING"), "while it is under way")
        self.assertGreater(stale.staleness.drift, 0)
        self.assertLess(stale.staleness.drift, 2)
        self.assertLess(stale.staleness.drift_sample_count, COUNT / 4)
        self.assertEqual((stale.generation, stale.encoder_fingerprint), (self.old.generation, self.old.encoder_fingerprint))
        self.assertEqual([hit.vector.data for hit in stale.results[0].hits], [hit.vector.data for hit in before.results[0].hits])
        self.assertRegex(self.metrics(), r'\nloci_training_drift\{session="%s",store="s"\} 0\.\d+\n' % session.session_id[:8])
        meanwhile = self.open()
        self.assertEqual(meanwhile.generation, self.old.generation)
        # A newer one supersedes it.
        newer = self.publish("trained-more", 1)
        self.assertNotEqual(newer.job, published.job)
        ended = self.ended(newer.job)
        self.assertEqual(ended.state, self.state("SUCCEEDED"), ended.error_message)
        self.assertEqual(ended.reembed.encoder_fingerprint, newer.fingerprint)
        self.assertEqual((ended.reembed.passage_count, ended.reembed.job), (COUNT, newer.job))
        superseded = self.job(published.job)
        self.assertEqual(superseded.state, self.state("CANCELLED"))
        self.assertIn(newer.job, superseded.error_message)
        # Who opens a session now has the new one; who has the old one is told so.
        opened = self.open()
        self.assertEqual((opened.generation, opened.encoder_fingerprint), (ended.generation, newer.fingerprint))
        self.assertEqual(self.retrieve(opened.session_id).staleness.drift_sample_count, 0)
        still = self.retrieve(session.session_id)
        self.assertEqual((still.generation, still.encoder_fingerprint), (self.old.generation, self.old.encoder_fingerprint))
        self.assertEqual(still.staleness.drift_sample_count, COUNT)
        self.assertGreater(still.staleness.drift, 0)
        self.assertEqual([hit.vector.data for hit in still.results[0].hits], [hit.vector.data for hit in before.results[0].hits])
        for lease in (session, meanwhile, opened):
            self.client.call("TrainingService.CloseSession", session_id=lease.session_id)
        self.stop()

    def test_what_serves_is_published_again_while_the_store_is_refreshed(self) -> None:
        self.fill(COUNT)
        published = self.publish("trained", SLOW)
        back = self.publish_again(self.old.encoder_fingerprint)
        self.assertEqual((back.fingerprint, back.live, back.was_there, back.generation), (self.old.encoder_fingerprint, True, True, self.old.generation))
        self.assertNotIn(back.job, ("", published.job), "the newest publication wins")
        self.assertEqual(self.ended(back.job).state, self.state("SUCCEEDED"))
        self.assertEqual(self.job(published.job).state, self.state("CANCELLED"))
        self.assertIn(back.job, self.job(published.job).error_message)
        store = self.client.call("AdminService.GetStore", store="s").store
        self.assertEqual((store.generation, store.encoder_fingerprint), (self.old.generation, self.old.encoder_fingerprint))
        # Nothing is under way: nothing is to do.
        self.assertEqual(self.publish_again(self.old.encoder_fingerprint).job, "")
        # A job that was cancelled is not the one that is named to who publishes again.
        again = self.publish_again(published.fingerprint)
        self.assertNotIn(again.job, ("", published.job))
        self.client.call("AdminService.CancelJob", job=again.job)
        further = self.publish_again(published.fingerprint)
        self.assertNotEqual(further.job, again.job)
        self.assertEqual(self.ended(further.job).state, self.state("SUCCEEDED"))
        self.assertEqual(self.client.call("AdminService.GetStore", store="s").store.encoder_fingerprint, published.fingerprint)
        self.stop()

    def test_a_server_that_was_killed_goes_on_with_the_job(self) -> None:
        self.fill(RESUMED_COUNT)
        published = self.publish("trained", SLOW)
        kept = os.path.join(self.folder.name, "data", "stores", "s", "encoded")

        def is_kept() -> bool:
            try:
                return sum(entry.stat().st_size for entry in os.scandir(kept)) > 4096
            except FileNotFoundError:
                return False

        self.until(is_kept, "nothing was kept of what was encoded")
        before = self.open()
        self.until(lambda: self.retrieve(before.session_id).staleness.drift_sample_count > 0, "no drift was told")
        self.assertEqual(self.job(published.job).state, self.state("RUNNING"))
        self.server.process.send_signal(signal.SIGKILL)
        self.server.process.wait()
        self.server.process.stdout.close()
        self.client.close()
        self.start()
        session = self.open()
        told = self.retrieve(session.session_id)
        if told.generation == self.old.generation:
            self.assertGreater(told.staleness.drift_sample_count, 0, "what was measured is told at once")
        self.client.call("AdminService.UpsertPassages", store="s", passages=[self.client.message("Passage", id="new", text="written later")])
        ended = self.ended(published.job)
        self.assertEqual(ended.state, self.state("SUCCEEDED"), ended.error_message)
        self.assertGreater(ended.reembed.reused_count, 0)
        self.assertGreater(ended.reembed.encoded_count, 0)
        self.assertEqual(self.client.call("AdminService.GetStore", store="s").store.encoder_fingerprint, published.fingerprint)
        found = self.client.call("RetrievalService.Search", store="s", top_k=1, queries=[self.client.message("Query", text="written later")])
        self.assertEqual(found.results[0].hits[0].id, "new")
        self.assertEqual(len([job for job in self.client.call("AdminService.ListJobs", store="s").jobs if job.kind == "reembed"]), 1)
        self.client.call("TrainingService.CloseSession", session_id=session.session_id)
        self.stop()


if __name__ == "__main__":
    main()
