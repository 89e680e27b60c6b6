"""The architectures in Flax NNX: one file each, named as the PyTorch file whose checkpoints it loads."""
