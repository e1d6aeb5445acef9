"""Words that several nodes share: counts with their nouns, and what people search the pack by."""

FIND = ("hallo", "avatar", "talking head", "talking portrait", "lip sync")


def counted(number: int, noun: str) -> str:
    """Formats a count with its noun: 1 frame, 75 frames."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
