"""Training: one trainer, the tasks that it runs, optimizer, checkpoints."""
