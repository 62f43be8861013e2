"""One kind of progress bar: it appears when something takes more than two seconds, and leaves nothing behind."""

from typing import Any

#: Seconds after which a bar appears.
DELAY = 2.0


def progress_bar(total: int | None, what: str, unit: str, *, show: bool = True) -> Any:
    """A tqdm bar to use in a `with` block; call `.update(k)` as k units are done. No total is None."""
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit=unit, delay=DELAY, disable=not show, leave=False)
