"""One kind of progress bar: it appears when something takes more than two seconds, and leaves nothing behind."""

import os
from typing import Any

#: Seconds after which a bar appears.
DELAY = 2.0


def progress_bar(total: int | None, what: str, unit: str, *, show: bool = True) -> Any:
    """A tqdm bar to use in a `with` block; call `.update(k)` as k units are done. No total is None."""
    from tqdm import tqdm

    hidden = not show or os.environ.get("TQDM_DISABLE", "") not in ("", "0")
    return tqdm(total=total, desc=what, unit=unit, delay=DELAY, disable=hidden, leave=False)
