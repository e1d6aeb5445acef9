"""The drawn world: people who speak synthesised speech in front of moving or still scenes.

Everything is generated from a seed, so a network's output can be compared with the ground truth. Needs only numpy and
torch, and PyAV to write films to disk.
"""
