"""What a model can learn: a file a task."""
