"""One seed for every source of randomness."""

import random

import numpy as np
import torch


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Seed Python's, NumPy's and torch's generators, those of all devices included.

    Args:
        seed: from 0 to 2**32 - 1, which is what NumPy takes.
        deterministic: whether torch may use deterministic kernels only, and raises where there is none.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if deterministic:
        torch.use_deterministic_algorithms(True)
