"""Attacks that grow during a training: more steps, each shorter (Amata: Ye, Li, Zhou, Zhu 2021, arXiv 2012.08112).

Early in a training a coarse attack is enough. The number of steps rises evenly from epoch to epoch, and steps ×
length of a step stays what it is in the last epoch. The paper's own schedule was not at hand; this is our reading.
"""


def rising(first: int, last: int, epoch: int, epochs: int) -> int:
    """Steps of an attack in an epoch, K_t = K_0 + round((K_T − K_0) · t / T) for t = 0 … T.

    Args:
        first: Steps in the first epoch; 0 makes all epochs like the last.
        last: Steps in the last epoch.
        epoch: t, counted from 0.
        epochs: T + 1; of a single epoch the last is meant.
    """
    if first == 0 or epochs == 1:
        return last
    return first + round((last - first) * epoch / (epochs - 1))


def shorter(step_size: float, last: int, steps: int) -> float:
    """The length of each of `steps` steps that together go as far as `last` steps of `step_size`."""
    return step_size if steps == last else step_size * last / steps
