"""Minibatch CKA: unbiased HSIC of one batch at a time, by its definition over different samples."""

import itertools

import numpy as np

from tests.oracles import centred
from tests.oracles.cka import hsic1


def hsic_of_different_samples(k: np.ndarray, l: np.ndarray) -> float:
    """Song et al. 2012, equation 4: the mean of k_ij (l_ij + l_qr - 2 l_iq) over all i, j, q, r that differ."""
    terms = [k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in itertools.permutations(range(len(k)), 4)]
    return float(np.mean(terms))


def batches(n: int, size: int) -> list[range]:
    """Runs of `size` samples; the last one is shorter, or longer where fewer than 4 would be left over."""
    found = []
    start = 0
    while start < n:
        stop = start + size
        if n - stop < 4:
            stop = n
        found.append(range(start, min(stop, n)))
        start = stop
    return found


def minibatch(x: np.ndarray, y: np.ndarray, size: int) -> float:
    """Nguyen et al. 2021: sums of unbiased HSIC over batches, each counted by its size, divided once."""
    cross = own_x = own_y = 0.0
    for rows in batches(len(x), size):
        a, b = centred(x[rows]), centred(y[rows])
        k, l = a @ a.T, b @ b.T
        hsic = hsic_of_different_samples if len(rows) <= 8 else hsic1
        cross += len(rows) * hsic(k, l)
        own_x += len(rows) * hsic(k, k)
        own_y += len(rows) * hsic(l, l)
    return cross / np.sqrt(own_x * own_y)


MEASURES = {"cka_minibatch": lambda x, y, labels, metric: minibatch(x, y, metric.batch_size)}
