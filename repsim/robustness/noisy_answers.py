"""What a network answers to noisy copies of each image, counted."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from repsim._common.messages import message
from repsim._common.progress import progress_bar
from repsim.data.image_set import ImageSet, check_image_set
from repsim.networks.answers import CPU_ROWS, check_eval, device_of, dtype_of, logits_of
from repsim.networks.network import name_of
from repsim.robustness.noises import Noise

#: Noise is drawn for this many numbers at once (64 MiB), and for this many rows at most. What an image is given
#: depends on these two, its shape and the number of draws alone, never on the batch size.
_NUMBERS, _ROWS = 2**24, 1024


def noisy_answers(
    function: str,
    net: nn.Module,
    data: ImageSet,
    noise: Noise,
    draws: Sequence[int],
    *,
    seed: int,
    batch_size: int,
    progress: bool,
) -> Int[np.ndarray, "s m k"]:
    """How often each image is answered by each class under noise.

    Args:
        function: Who asks, for messages.
        net: A network in eval mode.
        data: The images.
        noise: What is added to the image.
        draws: Noisy copies per image in each of s rounds; no copy serves two rounds.
        seed: Of the noise; each image has a stream of its own, named by seed and id.
        batch_size: Copies per forward pass; on a CPU at most `CPU_ROWS`.
        progress: Show a bar when it takes more than two seconds.

    Returns:
        Counts by round, image and class.

    Raises:
        ValueError: A network in training mode, or one without finite logits for each image.
        TypeError: Images that are no `ImageSet`.
    """
    check_image_set(function, data)
    if batch_size < 1:
        raise ValueError(message(function, "batch_size must be at least 1", f"{batch_size}", "Leave it out"))
    check_eval(net, function)
    device = device_of(net)
    kind = dtype_of(net)
    step = min(batch_size, CPU_ROWS) if device.type == "cpu" else batch_size
    rows = max(1, min(_ROWS, _NUMBERS // data.images[0].numel()))
    noisy = torch.empty(min(rows, max(draws)), *data.images.shape[1:], device=device)
    found = []
    with torch.no_grad(), progress_bar(len(data), f"{function} {name_of(net)}", "image", show=progress) as bar:
        for row, sample in enumerate(data.ids):
            x = data.pixels(slice(row, row + 1)).to(device)
            stream = hashlib.sha256(f"{seed}\n{sample}".encode()).digest()[:8]
            generator = torch.Generator(device).manual_seed(int.from_bytes(stream, "little") >> 1)
            rounds = []
            for n in draws:
                tally = _Tally()
                for start in range(0, n, rows):
                    # Drawn in place: new memory for every pass would cost more than the numbers.
                    part = noise.draw_(noisy[: n - start], generator).add_(x)
                    for batch in part.split(step):
                        tally.add(logits_of(net, batch.to(kind), function))
                rounds.append(tally.counts(function, sample))
            found.append(rounds)
            bar.update()
    return np.array(found).transpose(1, 0, 2)


class _Tally:
    """Answers of one image, kept where the network is: waiting for each batch would leave an accelerator idle."""

    def __init__(self) -> None:
        self._answers: list[Tensor] = []
        self._finite: list[Tensor] = []
        self._classes = 0

    def add(self, logits: Float[Tensor, "b k"]) -> None:
        self._answers.append(logits.argmax(1))
        self._finite.append(torch.isfinite(logits).all())
        self._classes = logits.shape[1]

    def counts(self, function: str, sample: str) -> Int[np.ndarray, " k"]:
        if not bool(torch.stack(self._finite).all()):
            got, advice = f"NaN or infinity for {sample}", "Look for a diverged network"
            raise ValueError(message(function, "logits must be finite", got, advice))
        return torch.bincount(torch.cat(self._answers), minlength=self._classes).cpu().numpy()
