"""Names of choices, apart from what they choose: the command line lists them without loading torch."""

from __future__ import annotations

FP8_WEIGHTS = "weights"  # kept in fp8, multiplied in the run's own dtype
FP8_PRODUCTS = "products"  # multiplied in fp8 too
FP8 = (FP8_WEIGHTS, FP8_PRODUCTS)
