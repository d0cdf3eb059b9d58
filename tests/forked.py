"""What a forked child of a test does: its work, and an end that the parent hears of."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn


def work(do: Callable[[], int | None], failed: int = 1) -> NoReturn:
    """End this process with the code that `do` gives, 0 where it gives none, and `failed` where it raises."""
    code = failed
    try:
        code = do() or 0
    except BaseException:  # whatever it was, the parent must hear of it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
