"""Stores of a server that the recipes fill."""

from __future__ import annotations

import loci
import numpy as np

from reader import Workshop


def ingest(client: loci.Client, store: str, workshop: Workshop, ids: list[str], vectors: np.ndarray) -> None:
    """Passages, cut, with their vectors: what the store holds from then on. `vectors` [passages, dim] are of the server's default encoder."""
    fingerprint = client.server_info().encoders[0].fingerprint
    passages = [loci.Passage(cut.id, cut.text, cut.title) for cut in (workshop.tokens.cut(workshop.data.passages[id]) for id in ids)]
    client.ingest(store, passages, vectors=vectors, encoder_fingerprint=fingerprint)
