"""The subgraph that ships: the inside of `hallo3_long_video` as one node."""

NAME = "Hallo3 portrait and recording to film"
DESCRIPTION = "A portrait, a recording and a sentence become a talking film, as long as the recording."
OUTSIDE = ["LoadImage", "LoadAudio", "SaveVideo", "Hallo3SampleInputs"]
FIELDS = [
    ["CLIPTextEncode", "text"],
    ["Hallo3LongVideo", "seed"],
    ["Hallo3LongVideo", "steps"],
    ["Hallo3Reference", "width"],
    ["Hallo3Reference", "height"],
]

# Nodes that a person links to it, and the slots.
GIVERS = [["LoadImage", "IMAGE", "image"], ["LoadAudio", "AUDIO", "audio"]]
TAKER = ["film", "SaveVideo", "video"]
