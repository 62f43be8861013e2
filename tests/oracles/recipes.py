"""The losses of training recipes, image by image in float64, straight from their papers."""

import numpy as np
from scipy.stats import norm


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def cross_entropy(logits: np.ndarray, y: np.ndarray) -> float:
    """Mean of −log p_y."""
    return float(np.mean([-np.log(softmax(row)[label]) for row, label in zip(logits, y, strict=True)]))


def trades(clean: np.ndarray, moved: np.ndarray, y: np.ndarray, beta: float) -> float:
    """Zhang et al. 2019, equation 5: cross-entropy plus β times the mean of KL(p ‖ q)."""
    divergences = []
    for a, b in zip(clean, moved, strict=True):
        p, q = softmax(a), softmax(b)
        divergences.append(sum(p[c] * np.log(p[c] / q[c]) for c in range(len(p))))
    return cross_entropy(clean, y) + beta * float(np.mean(divergences))


def macer(
    logits: np.ndarray, y: np.ndarray, *, sigma: float, weight: float, margin: float, sharpness: float
) -> tuple[float, int]:
    """Zhai et al. 2020, equation 11, from logits (images, copies, classes), and how many images the hinge acts on."""
    loss, acted = 0.0, 0
    for copies, label in zip(logits, y, strict=True):
        loss -= np.log(np.mean([softmax(row)[label] for row in copies]))
        chances = np.mean([softmax(sharpness * row) for row in copies], axis=0)
        first, second = np.sort(chances)[::-1][:2]
        gap = norm.ppf(first) - norm.ppf(second)
        if chances.argmax() == label and np.isfinite(gap) and gap <= margin:
            loss += weight * sigma / 2 * (margin - gap)
            acted += 1
    return loss / len(y), acted


def free(
    w: np.ndarray, b: np.ndarray, batches: list[tuple[np.ndarray, np.ndarray]], *, eps: float, replays: int, rate: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shafahi et al. 2019, algorithm 1, for softmax regression (k, d) and plain gradient descent.

    Returns:
        Weights, biases and the last perturbation.
    """
    w, b = w.copy(), b.copy()
    delta = np.zeros_like(batches[0][0])
    for x, y in batches:
        for _ in range(replays):
            delta = np.clip(x + delta, 0, 1) - x
            error = softmax((x + delta) @ w.T + b) - np.eye(len(b))[y]  # d loss_i / d logits_i
            upward = error @ w
            down_w, down_b = error.T @ (x + delta) / len(y), error.mean(0)
            delta = np.clip(delta + eps * np.sign(upward), -eps, eps)
            w, b = w - rate * down_w, b - rate * down_b
    return w, b, delta


def cutmix(height: int, width: int, share: float, row: int, column: int) -> tuple[np.ndarray, float]:
    """Yun et al. 2019, equation 2 and the authors' code: the box (height, width) and the λ that its pixels leave."""
    box = np.zeros((height, width), dtype=bool)
    rows, columns = int(height * np.sqrt(1 - share)), int(width * np.sqrt(1 - share))
    top, bottom = np.clip([row - rows // 2, row + rows // 2], 0, height)
    left, right = np.clip([column - columns // 2, column + columns // 2], 0, width)
    box[top:bottom, left:right] = True
    return box, 1 - box.sum() / (height * width)
