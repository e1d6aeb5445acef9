"""Fixtures of the parity suite: the recordings and the table of errors, printed when the suite ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity import golden

TABLE = golden.Table()


@pytest.fixture(scope="session")
def recorded():
    """`recorded("vae_tiny")` opens one file of the set, once."""
    opened: dict[str, golden.Recording] = {}

    def open_once(name: str) -> golden.Recording:
        if name not in opened:
            opened[name] = golden.Recording(name)
        return opened[name]

    return open_once


@pytest.fixture(scope="session")
def golden_config() -> dict:
    return golden.config()


@pytest.fixture(scope="session")
def manifest() -> dict:
    found = golden.manifest()
    if found is None:
        pytest.skip("these recordings have no full_size_manifest.json")
    return found


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    return golden.DIRECTORY


@pytest.fixture
def table() -> golden.Table:
    return TABLE


@pytest.fixture(autouse=True)
def _inference(no_gradients):
    """Of every test."""


def pytest_terminal_summary(terminalreporter):
    if TABLE.rows:
        terminalreporter.section(f"parity with {golden.DIRECTORY}")
        terminalreporter.write_line(TABLE.text())
