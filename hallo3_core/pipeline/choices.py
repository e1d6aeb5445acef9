"""Names of options' values, in a separate module so that the command line can list them without importing torch."""

from __future__ import annotations

FP8_WEIGHTS = "weights"  # stored in fp8, multiplied in the run's dtype
FP8_PRODUCTS = "products"  # also multiplied in fp8
FP8 = (FP8_WEIGHTS, FP8_PRODUCTS)
