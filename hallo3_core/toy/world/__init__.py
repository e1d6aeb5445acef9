"""The drawn world: people who speak synthesised sound before scenes that move or stand still.

Everything in it follows from a seed, so whatever a network makes of it can be compared with the truth. Only numpy and
torch are needed; PyAV only to write films to disk.
"""
