"""The few-second twin of training_clients.py."""

import unittest

import synthetic_corpus
import training_clients
from loci_server import main


class TrainingClientsTest(unittest.TestCase):
    def test_many_clients_train_and_search_while_operators_write_and_swap(self):
        synthetic_corpus.VECTORS = 500  # Making all of them takes seconds.
        options = training_clients.parser().parse_args(["--seconds=3", "--training-clients=12", "--query-clients=12", "--passages=1000", "--batch=2", "--steps=5",
                                                        "--swap-s=0.5"])
        self.assertEqual(training_clients.run(options), [])


if __name__ == "__main__":
    main()
