"""Counts with their nouns, in singular or plural."""


def counted(number: int, noun: str) -> str:
    """Formats a count with its noun: 1 frame, 75 frames."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
