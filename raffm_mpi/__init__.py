"""RaFFM on MPI: resource-aware federated fine-tuning of transformers, bit-identical on any number of ranks."""

__version__ = "0.1.0"
