"""Training: the trainer, and what goes into it: collators, schedules, metrics, losses, seeds."""
