"""Work for workers, in a module that they import quickly."""

from __future__ import annotations

import os
from pathlib import Path


def die(item: object) -> None:
    os.kill(os.getpid(), 9)


def die_once(file: Path) -> int:
    if not file.exists():
        file.touch()
        die(file)
    return 1


def is_even(number: int) -> bool:
    if number > 90:
        raise ZeroDivisionError
    return number % 2 == 0
