"""The in / out split of DomainBed (Gulrajani & Lopez-Paz, ICLR 2021): seeded per domain."""

import hashlib

import numpy as np


def domain_seed(trial_seed: int, domain: int) -> int:
    """Seed of a domain's split: MD5 of the text "(trial_seed, domain)", modulo 2^31."""
    text = f"({trial_seed}, {domain})"
    return int(hashlib.md5(text.encode("ascii"), usedforsecurity=False).hexdigest(), 16) % 2**31


def split_domain(
    n: int, *, domain: int, trial_seed: int, holdout: float = 0.2
) -> tuple[np.ndarray, np.ndarray]:
    """Indices (out, in) of a domain with n files: out is the first int(holdout n) of a shuffle.

    Args:
        domain: place among all domains in sorted order, the target included.

    Both stay in shuffled order. The split depends on neither the target domain nor the run's seed.
    """
    if not 0 < holdout < 1:
        raise ValueError(f"DATASET.HOLDOUT is {holdout}. Use a fraction between 0 and 1.")
    keys = np.arange(n)
    np.random.RandomState(domain_seed(trial_seed, domain)).shuffle(keys)
    n_out = int(n * holdout)
    return keys[:n_out], keys[n_out:]
