"""Training: trainer, optimizer, checkpoints."""
