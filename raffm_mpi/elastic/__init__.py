"""Elastic models: labels, families, sub-models, salience and cost; no MPI, no federated learning."""
