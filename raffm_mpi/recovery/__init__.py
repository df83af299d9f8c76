"""Checkpoints of a run, where a resumed run goes on, and patience with a disk that fails."""
