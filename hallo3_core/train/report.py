"""Progress of a run: a JSON line every few steps, TensorBoard if it is installed, and a progress bar."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

LOG, DECILES = "log.jsonl", 10
log = logging.getLogger(__name__)


class Losses:
    """Loss sums by tenth of the timesteps, kept on the device until `take`."""

    def __init__(self, device: torch.device):
        self._sums = torch.zeros(2, DECILES, device=device)

    @torch.no_grad()
    def add(self, losses: Tensor, timesteps: Tensor) -> None:
        """Adds losses ``b``; those that are NaN or infinite do not count."""
        tenth, counts = (timesteps * DECILES) // 1000, losses.isfinite().float()
        self._sums[0].index_add_(0, tenth, losses.detach().float().nan_to_num(0, 0, 0))
        self._sums[1].index_add_(0, tenth, counts)

    def take(self, summed) -> dict[str, object]:
        """The means since the last call; synchronises with the device."""
        total, count = summed(self._sums).tolist()
        self._sums.zero_()
        deciles = [round(t / c, 6) if c else None for t, c in zip(total, count, strict=True)]
        return {"loss": sum(total) / sum(count) if sum(count) else None, "loss_by_decile": deciles}


class TrainingLog:
    """The log of a run. Only the first process writes it; in the others this does nothing."""

    def __init__(self, folder: Path, total: int, done: int, active: bool):
        self._file = self._board = self._bar = None
        if not active:
            return
        path = folder / LOG
        kept = [line for line in _lines(path) if line["step"] <= done]  # steps that are repeated are logged once
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", buffering=1)
        self._bar = tqdm(total=total, initial=done, unit="step", disable=None)
        self._at, self._since = done, time.monotonic()
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)
        except ImportError:
            log.debug("TensorBoard is not installed: %s alone is written", path)

    def step(self, values: dict[str, object], step: int, device: torch.device) -> None:
        """Writes the values of a step."""
        if self._file is None:
            return
        now = time.monotonic()
        values = {"step": step, **values}
        if step > self._at:
            values["steps_per_second"] = round((step - self._at) / max(1e-9, now - self._since), 3)
        if device.type == "cuda":
            values["memory_gb"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 3)
        self._file.write(json.dumps(values) + "\n")
        if self._bar.disable and "loss" in values:  # no terminal
            log.info("step %d of %d: loss %s", step, self._bar.total, values["loss"])
        self._bar.update(step - self._at)
        self._bar.set_postfix({k: values[k] for k in ("loss", "memory_gb") if k in values}, refresh=False)
        if step > self._at:
            self._at, self._since = step, now
        if self._board is not None:
            for name, value in values.items():
                parts = value if isinstance(value, list) else [value]
                for tenth, number in enumerate(parts):
                    if isinstance(number, float):
                        self._board.add_scalar(f"{name}/{tenth}" if len(parts) > 1 else name, number, step)

    def close(self) -> None:
        for each in (self._file, self._board, self._bar):
            if each is not None:
                each.close()


def _lines(path: Path) -> list[dict]:
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # cut off when the process was killed
    return found
