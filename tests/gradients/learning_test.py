"""Whether a retriever learns through the server, and with the exact normaliser at least as well as with the truncated one, the control arm of the same run.

A synthetic world with known relevance: passages lie in topics; a question is a noisy view of its passage's vector, in other coordinates; the reader
gives the answer a high likelihood with that passage, a lower one with others, the lower the further they are. The retriever is a matrix that has to undo
the change of coordinates, and the likelihoods are all that teaches it. Questions that are measured with are about passages that no training question
is about. Arms of one seed begin with the same matrix and see the same questions.

The server is the binary in $LOCI_SERVER_BINARY (encoder: $LOCI_MODEL_DIR), or the running one at $LOCI_SERVER.
"""

from __future__ import annotations

import unittest

import loci
import loci.torch
import numpy as np
import torch
from loci_server import ServerProcess, main

DIM = 384
LATENT = 24
TOPICS = 60
PER_TOPIC = 20
K = 8
TEMPERATURE = 0.1
STEPS = 35
BATCH = 32
NULL = -5.0  # log p(answer | question, no passage).
SEEDS = range(5)


def unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


class World:
    """`latent` [passages, LATENT] are the passages' vectors in the space that they span, `vectors` [passages, DIM] in the store's."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(11)
        topics = unit(torch.randn(TOPICS, LATENT, generator=generator)).repeat_interleave(PER_TOPIC, 0)
        self.latent = unit(topics + 0.8 * unit(torch.randn(TOPICS * PER_TOPIC, LATENT, generator=generator)))
        self.basis = torch.linalg.qr(torch.randn(DIM, LATENT, generator=generator))[0].T
        self.vectors = self.latent @ self.basis
        self.ids = [f"p{row:04d}" for row in range(len(self.vectors))]
        self.row_of = {name: row for row, name in enumerate(self.ids)}
        self.training, self.held_back = torch.randperm(len(self.ids), generator=generator).split([len(self.ids) - 300, 300])
        self.coordinates = torch.eye(LATENT) + 2 * torch.randn(LATENT, LATENT, generator=generator) / LATENT**0.5

    def ask(self, rows: torch.Tensor, seed: int) -> torch.Tensor:
        noise = unit(torch.randn(len(rows), LATENT, generator=torch.Generator().manual_seed(seed)))
        return (self.latent[rows] + 0.6 * noise) @ self.coordinates.T

    def read(self, rows: torch.Tensor, ids: list[list[str]]) -> torch.Tensor:
        """log p(answer | question, passage), [questions, k]: -0.1 for the own passage, falling with the angle to it."""
        found = self.latent[torch.tensor([[self.row_of[name] for name in names] for names in ids])]
        return -0.1 - 6.0 * (1 - (found @ self.latent[rows][:, :, None])[:, :, 0])


class LearningTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        torch.set_num_threads(1)
        cls.server = ServerProcess()
        cls.client = loci.Client(cls.server.address)
        cls.world = World()
        fingerprint = cls.client.server_info().encoders[0].fingerprint
        passages = [loci.Passage(name, f"text of {name}") for name in cls.world.ids]
        cls.client.ingest("learning", passages, vectors=cls.world.vectors.numpy(), encoder_fingerprint=fingerprint)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        status = cls.server.stop()
        assert status in (None, 0), f"the server ended with {status} after SIGTERM"

    def recall(self, retriever: torch.Tensor) -> float:
        """Share of held-back questions whose own passage is the first."""
        rows = self.world.held_back
        results = self.client.search("learning", (unit(self.world.ask(rows, 999) @ retriever.detach()) @ self.world.basis).numpy(), 1).results
        return float(np.mean([hits[0].id == self.world.ids[row] for hits, row in zip(results, rows)]))

    def train(self, estimator: str, seed: int) -> tuple[float, float]:
        """Recall before and after."""
        generator = torch.Generator().manual_seed(seed)
        retriever = torch.nn.Parameter(torch.eye(LATENT) + 0.2 * torch.randn(LATENT, LATENT, generator=generator) / LATENT**0.5)
        optimizer = torch.optim.Adam([retriever], lr=0.02)
        before = self.recall(retriever)
        with self.client.open_session("learning") as session:
            for step in range(STEPS):
                rows = self.world.training[torch.randint(len(self.world.training), (BATCH,), generator=generator)]
                queries = unit(self.world.ask(rows, 1000 * seed + step) @ retriever) @ self.world.basis
                found = loci.torch.retrieve(queries, session, K, estimator=estimator, temperature=TEMPERATURE, include_text=False)
                likelihoods = self.world.read(rows, found.ids)
                if estimator == "EXACT_Z_NULL":
                    likelihoods = torch.cat([likelihoods, torch.full((BATCH, 1), NULL)], 1)
                optimizer.zero_grad()
                loci.torch.rag_sequence_loss(found, likelihoods).backward()
                optimizer.step()
        return before, self.recall(retriever)

    def test_exact_normaliser_learns_no_worse_than_truncation(self):
        ends = {}
        for estimator in ("TOP_K", "EXACT_Z_NULL"):
            runs = [self.train(estimator, seed) for seed in SEEDS]
            starts, ends[estimator] = np.array(runs).T
            print(f"{estimator}: recall@1, mean {starts.mean():.3f} -> {ends[estimator].mean():.3f}, of each seed {np.round(ends[estimator], 3)}", flush=True)
        exact, truncated = ends["EXACT_Z_NULL"], ends["TOP_K"]
        for name, end in ends.items():
            self.assertGreater((end - starts).min(), 0.3, f"{name}: every seed's retriever is far better than the one it began with")
        self.assertGreaterEqual((exact - truncated).mean(), 0.0)


if __name__ == "__main__":
    main()
