"""The architectures in Keras 3 on TensorFlow: one file each, named as the PyTorch file whose checkpoints it loads."""
