"""The parts of the GPU check (`benchmarks/gpu.py`): each measures one thing and returns plain JSON values."""
