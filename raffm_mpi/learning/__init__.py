"""Learning on one rank: the model, a client's training, its objective, and evaluation."""
