"""Summarises the films' measurements in a table: the mean of each variant with its bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

COLUMNS = {
    "sync": "sync",
    "sync_own": "sync, own track",
    "mouth_motion": "mouth motion",
    "open": "mouth open",
    "open_late": "mouth open, last 20 frames",
    "background_motion": "background motion",
    "head_motion": "head motion",
    "likeness": "likeness",
    "nearest": "nearest of 100",
    "hair": "hair off by",
    "clothes": "clothes off by",
}
SAMPLES = 2000
INTERVAL = (2.5, 97.5)  # percentiles


def summarise(films: Sequence[dict]) -> list[dict]:
    """One row per variant: number of films, how many were readable, their mean lag curve, and each column's mean with
    its interval (low, high)."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for film in films:
        groups.setdefault((film["experiment"], film["variant"]), []).append(film)
    return [_row(*key, group) for key, group in groups.items()]


def _row(experiment: str, variant: str, films: list[dict]) -> dict:
    readable = [film for film in films if film["readable"]]
    row = {"experiment": experiment, "variant": variant, "films": len(films), "readable": len(readable)}
    if not readable:
        return row
    curves = np.array([film["curve"] for film in readable])
    row["curve"] = np.round(curves.mean(0), 3).tolist()
    row["sync_median"] = round(float(np.median([film["sync"] for film in readable])), 3)
    for name in COLUMNS:
        row[name] = interval([float(film[name]) for film in readable])
    return row


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % bootstrap interval."""
    values = np.asarray(values)
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (SAMPLES, len(values)))].mean(1)
    low, high = np.percentile(means, INTERVAL)
    return round(float(values.mean()), 4), round(float(low), 4), round(float(high), 4)


def markdown(rows: Sequence[dict]) -> str:
    lines = ["| experiment | variant | films | " + " | ".join(COLUMNS.values()) + " |"]
    lines.append("| --- " * (3 + len(COLUMNS)) + "|")
    for row in rows:
        cells = [_cell(*row[name]) if name in row else "" for name in COLUMNS]
        count = f"{row['readable']} of {row['films']}"
        lines.append("| " + " | ".join([row["experiment"], row["variant"], count, *cells]) + " |")
    return "\n".join(lines) + "\n"


def _cell(mean: float, low: float, high: float) -> str:
    digits = 4 if abs(mean) < 0.02 else 2
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
