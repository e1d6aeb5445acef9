"""The parts of the GPU check (`benchmarks/gpu.py`): each measures one thing and answers with plain JSON values."""
