"""State, train step, the one loop, checkpoints, optimizers and metrics."""
