"""Words that several nodes share: counts with their nouns, lists, sizes, and what people search the pack by."""

from collections.abc import Sequence

FIND = ("hallo", "avatar", "talking head", "talking portrait", "lip sync")


def counted(number: int, noun: str) -> str:
    """Formats a count with its noun: 1 frame, 75 frames."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def listed(words: Sequence[str]) -> str:
    """Formats a list: a, b and c."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def size_of(count: int) -> str:
    """Formats a number of bytes: 67 MB, 40.1 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
