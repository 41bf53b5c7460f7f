"""Training through Loci's retriever with PyTorch: retrieve(), losses, an encoder that the server can run.

Needs torch: `pip install "./clients/python[torch]"` in a checkout of Loci.
"""

from .bert import BertConfig, BertEncoder, pad
from .losses import contrastive_loss, emdr2_loss, log_marginals, log_sum_exp, rag_sequence_loss, rag_token_loss, realm_loss
from .retrieval import Retrieved, retrieve

__all__ = [
    "BertConfig", "BertEncoder", "Retrieved", "contrastive_loss", "emdr2_loss", "log_marginals", "log_sum_exp", "pad", "rag_sequence_loss",
    "rag_token_loss", "realm_loss", "retrieve",
]
