"""Numbers with their nouns, as people write them."""


def counted(number: int, noun: str) -> str:
    """1 frame, 75 frames."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
