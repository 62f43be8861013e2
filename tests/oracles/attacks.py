"""Attacks on linear networks in float64: the worst a ball can do, and projected gradient ascent one image at a time."""

import math

import numpy as np


def worst_box(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """The point of [0, 1] within eps of x in every pixel where weight · x is least: each pixel by itself."""
    return np.clip(x.astype(np.float64) - eps * np.sign(weight), 0, 1)


def worst_ball(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """The same within Euclidean distance eps: clip(x - t · weight) for the t whose change is as long as allowed."""
    x = x.astype(np.float64)
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        moved = np.clip(x - middle * weight, 0, 1)
        low, high = (middle, high) if np.linalg.norm(moved - x) <= eps else (low, middle)
    return np.clip(x - low * weight, 0, 1)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def pgd(
    x: np.ndarray,
    y: int,
    weight: np.ndarray,
    bias: np.ndarray,
    norm: str,
    eps: float,
    steps: int,
    step: float,
    start: np.ndarray,
) -> np.ndarray:
    """Projected gradient ascent on the cross-entropy of weight · x + bias, for one image."""
    x = x.astype(np.float64)
    delta = np.clip(x + start, 0, 1) - x
    for _ in range(steps):
        slope = softmax(weight @ (x + delta) + bias)
        slope[y] -= 1
        gradient = weight.T @ slope
        if norm == "linf":
            delta = np.clip(delta + step * np.sign(gradient), -eps, eps)
        else:
            delta = delta + step * gradient / math.sqrt(float(gradient @ gradient))
            length = math.sqrt(float(delta @ delta))
            delta = delta if length <= eps else delta * eps / length
        delta = np.clip(x + delta, 0, 1) - x
    return x + delta
