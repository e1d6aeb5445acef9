"""The shipped subgraph, which the quick start uses: the inside of `hallo3_long_video` as one node."""

NAME = "Hallo3 portrait and recording to video"
DESCRIPTION = "A portrait, a recording and a prompt become a talking video, as long as the recording."
OUTSIDE = ["LoadImage", "LoadAudio", "SaveVideo", "Hallo3SampleInputs", "MarkdownNote"]
FIELDS = [
    ["CLIPTextEncode", "text"],
    ["Hallo3LongVideo", "seed"],
    ["Hallo3LongVideo", "steps"],
    ["Hallo3Reference", "width"],
    ["Hallo3Reference", "height"],
    ["Hallo3LongVideo", "audio_cfg"],
    ["Hallo3LongVideo", "text_cfg"],
    ["Hallo3LongVideo", "reference_cfg"],
    ["Hallo3LongVideo", "color_hold"],
    ["Hallo3LongVideo", "resume_key"],
]
PREVIEW = "Hallo3LongVideo"  # the block shows this node's preview and text while it runs

# Nodes that the user connects to the block, and the slots.
GIVERS = [["LoadImage", "IMAGE", "image"], ["LoadAudio", "AUDIO", "audio"]]
TAKER = ["film", "SaveVideo", "video"]
