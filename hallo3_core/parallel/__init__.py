"""One film on several GPUs: guidance branches apart, and each branch's tokens divided (docs/parallel.md).

groups.py     processes that exchange tensors of any size
sequence.py   a denoiser that computes a strip of the picture: the same network, another layout
team.py       joining under torchrun; rank 0 leads; one failure ends all
spread.py     rank 0 makes the film, the others answer its model calls
"""
