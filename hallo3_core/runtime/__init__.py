"""How networks run on a device: memory, streaming, attention kernels, compilation, fp8 matmuls."""
