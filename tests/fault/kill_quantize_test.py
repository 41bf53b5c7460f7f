"""Kills a server by SIGKILL at random moments while it measures int8 over a store, again and again, and looks at what it left.

The store's record is the last that was acknowledged, or that of the measurement that was under way, whole either way; its job says INTERRUPTED, unless
it came to its end; and the store can be measured again.

LOCI_KILL_ITERATIONS (default 6) and LOCI_KILL_SEED set how often and where. The server is $LOCI_SERVER_BINARY, with the tiny encoder that
$LOCI_WRITE_TINY_CHECKPOINT writes.
"""

import os
import random
import signal
import subprocess
import tempfile
import threading
import time
import unittest

import grpc
from loci_server import ReflectionClient, ServerProcess, main

ITERATIONS = int(os.environ.get("LOCI_KILL_ITERATIONS", "6"))
SEED = int(os.environ.get("LOCI_KILL_SEED", "20261122"))
COUNT = 1500


class KillQuantizeTest(unittest.TestCase):
    def setUp(self):
        self.random = random.Random(SEED)
        self.data_dir = tempfile.TemporaryDirectory(prefix="loci_kill_")
        self.addCleanup(self.data_dir.cleanup)
        models = tempfile.TemporaryDirectory(prefix="loci_models_")
        self.addCleanup(models.cleanup)
        tiny = os.path.join(models.name, "tiny")
        subprocess.run([os.environ["LOCI_WRITE_TINY_CHECKPOINT"], tiny], check=True)
        os.environ["LOCI_MODEL_DIR"] = tiny
        self.acknowledged = None  # Of the records, the last.
        self.sample = 20  # Of the measurement that is under way; of each another one.
        self.errors = []

    def start(self):
        server = ServerProcess(self.data_dir.name)
        self.client = ReflectionClient(server.address)
        return server

    def record(self):
        store = self.client.call("AdminService.GetStore", store="s").store
        return store.int8_fidelity if store.HasField("int8_fidelity") else None

    def measure(self):
        try:
            while True:
                self.sample = 20 + (self.sample + 1) % (COUNT - 20)
                self.acknowledged = self.client.call("AdminService.QuantizeStore", store="s", sample_count=self.sample).fidelity
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                self.errors.append(error)

    def test_a_record_is_whole_or_that_before(self):
        server = self.start()
        self.client.ingest({"store": "s"}, [{"passages": [self.client.message("Passage", id=f"p{i}", text=f"number {i} of {i % 17}") for i in range(COUNT)]}])
        for iteration in range(ITERATIONS):
            moment_s = self.random.uniform(0.0, 0.5)
            with self.subTest(iteration=iteration, seed=SEED, moment_s=moment_s):
                measuring = threading.Thread(target=self.measure)
                measuring.start()
                time.sleep(moment_s)
                server.process.send_signal(signal.SIGKILL)
                server.process.wait()
                measuring.join()
                self.client.close()
                server.process.stdout.close()
                server = self.start()
                self.assertEqual(self.errors, [])
                found = self.record()
                # As text: another client's messages are of other classes.
                if str(found) != str(self.acknowledged):
                    self.assertIsNotNone(found, "an acknowledged record is lost")
                    self.assertEqual(found.sample_count, self.sample)
                    self.assertEqual(found.precisions[-1].element_type, "int8")
                    self.assertGreater(found.measured_unix_us, self.acknowledged.measured_unix_us if self.acknowledged else 0)
                    self.acknowledged = found
                states = {job.state for job in self.client.call("AdminService.ListJobs", store="s").jobs if job.kind == "quantize"}
                self.assertLessEqual(states, {self.client.value("JobState", "JOB_STATE_SUCCEEDED"), self.client.value("JobState", "JOB_STATE_INTERRUPTED")})
        self.acknowledged = self.client.call("AdminService.QuantizeStore", store="s").fidelity
        self.assertEqual(str(self.record()), str(self.acknowledged))
        self.client.close()
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    main()
