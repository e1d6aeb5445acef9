"""A training's time budget: learning rates and phases depend on the share that is spent, so one recipe fits two minutes
on a GPU and two hours on a laptop."""

from __future__ import annotations

import time


class Budget:
    """Counts the seconds spent in training, including earlier sessions.

    Raises:
        ValueError: the budget is zero.
    """

    def __init__(self, seconds: float, spent: float = 0.0):
        if seconds <= 0:
            raise ValueError(f"training needs some time, got {seconds} seconds")
        self.seconds, self._before, self._began = seconds, spent, time.monotonic()

    @property
    def spent(self) -> float:
        return self._before + time.monotonic() - self._began

    @property
    def share(self) -> float:
        """0 at the beginning, 1 at the end and after."""
        return min(1.0, self.spent / self.seconds)

    @property
    def over(self) -> bool:
        return self.share >= 1


def rate(share: float, step: int, warm_up: int = 50, hold: float = 0.5, floor: float = 0.02) -> float:
    """The learning rate's factor: linear warm-up, constant until `hold` of the time, linear decay."""
    fall = 1.0 if share < hold else max(floor, (1 - share) / (1 - hold))
    return min(1.0, (step + 1) / warm_up) * fall
