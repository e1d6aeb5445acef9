"""One film on several cards: guidance branches apart, and each branch's tokens spread (docs/parallel.md).

groups.py     processes that hand tensors to each other, in pieces of any size
sequence.py   a denoiser that holds a strip of the picture: the same network, another layout
team.py       joining under torchrun; rank 0 speaks, the others listen; one failure ends all
spread.py     rank 0 makes the film, the others answer its evaluations
"""
