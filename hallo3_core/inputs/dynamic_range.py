"""High dynamic range (HLG, PQ) to standard, as phones record and players without HDR screens show it.

Reference white (203 cd/m2, ITU-R BT.2408) becomes white; what is brighter clips. Colours are converted from BT.2020 to
BT.709, for a screen of gamma 2.4 (BT.1886).
"""

from __future__ import annotations

from functools import cache

import numpy as np

WHITE = 203.0  # cd/m2
_HLG_PEAK = 1000.0  # cd/m2, of the screen that HLG is graded on
_LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)  # BT.2020
_TO_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)
TRANSFERS = {16: "pq", 18: "hlg"}  # of H.273's transfer characteristics


def to_standard(picture: np.ndarray, transfer: str) -> np.ndarray:
    """``h w 3``, uint16 over its whole range, in BT.2020 with `transfer` "pq" or "hlg" -> uint8, BT.709."""
    light = _light(transfer)[picture]
    if transfer == "hlg":  # scene to screen: BT.2100's OOTF, gamma 1.2 at 1000 cd/m2
        luminance = np.maximum(light @ _LUMA, 1e-6)
        light = light * (_HLG_PEAK / WHITE * luminance[..., None] ** 0.2)
    light = np.clip(light @ _TO_709.T, 0, 1)
    return np.rint(255 * light ** (1 / 2.4)).astype(np.uint8)


@cache
def _light(transfer: str) -> np.ndarray:
    """Light of each of 65536 code values: pq, 1 is reference white; hlg, 1 is the scene's peak."""
    code = np.linspace(0, 1, 65536)
    if transfer == "hlg":  # BT.2100's inverse OETF
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
    else:  # SMPTE ST 2084's EOTF
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        root = code ** (1 / m2)
        light = 10000 / WHITE * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    return light.astype(np.float32)
