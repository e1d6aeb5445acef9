"""The shipped workflows, one function each."""

from __future__ import annotations

import uuid

from .drawing import BELOW, GAP, LANE, Dot, Drawing, Node, Output, Stage, note_height, unwrapped
from .stages import (
    GIVEN,
    MADE,
    MODELS,
    SAID,
    SHOWN,
    Part,
    create,
    given,
    heard,
    heard_apart,
    lane,
    note,
    prompt,
    said,
    save,
    scene,
    seen,
    text_encoder,
    video_transformer,
)

STEPS = """
1. **Run**: it works as it is, with a drawn portrait and a spoken sentence.
2. **Your portrait**: select Load Image, Ctrl+B, choose a picture with one whole face that looks ahead.
3. **Your voice**: select Load Audio, Ctrl+B, choose clear speech of any length, without music.
4. **The prompt**: one sentence about person and place. It steers background, light and gestures.
"""
INPUTS = 240  # from the guide's lower edge to below the inputs' first sockets
RISE = 110  # from a stage's title to below its first sockets
TOP, LANES = 100, 890  # top of a sampling stage; distance below its title of the links that pass under its nodes


def guide(text: str) -> Node:
    return note(text, 576, "Start here")


def under_all(output: Output, guide_height: int) -> tuple[Dot, Dot, Dot]:
    """A link that runs below all stages: beside the inputs, which stand under the guide, and its two lower ends."""
    near = Dot(output, at=guide_height + INPUTS)
    left = Dot(near, at=BELOW)
    return near, left, Dot(left, at=BELOW)


def long_video() -> Drawing:
    own = given()
    inputs = scene(video_transformer(), said(), heard(own["sound"]), seen(own["image"]))
    film = Node("Hallo3LongVideo", inputs.conditions, 360)
    words = """
**A clip** is 1.88 s of video. It costs **steps** x 2 model calls while **audio_cfg** = **text_cfg** and
**reference_cfg** = 1. 20 to 30 steps are enough for a look.

**Long videos**: **color_hold** 0.5 keeps the colours the portrait's, **seam_fade** 8 hides jumps between clips. With a
name in **resume_key**, a run that was stopped goes on where it was.
"""
    sampling = Stage("Video transformer: clip after clip", [[film, note(words, 360, "Cost")]], MADE, drop=TOP)
    shown = Stage("Video", [[save(film["film"], "long_video")]], SHOWN, drop=TOP)
    start = f"""
# A portrait talks
One picture, one recording and one prompt become a video with sound, as long as the recording. It is saved in
**output/hallo3**.
{STEPS}
**What happens.** T5 reads the prompt. wav2vec2 hears the whole recording. The face is found, and the reference
network looks at it once. The video transformer makes clips of 49 frames, each going on from the last 2 frames of the
one before. Run again with another seed or scale: only the sampling is done again.
"""
    columns = [[guide(start), own.stage], inputs.stages, [sampling], [shown]]
    return Drawing("hallo3_long_video", columns)


def shown_with_sound(images: Output, sound: Output | Dot, name: str, drop: int = TOP) -> Stage:
    video = create(images, sound)
    return Stage("Video", [[video], [save(video["VIDEO"], name)]], SHOWN, drop=drop)


def single_clip() -> Drawing:
    own = given()
    inputs = scene(video_transformer(), said(), heard(own["sound"]), seen(own["image"]))
    clip = Node("Hallo3SampleClip", inputs.conditions, 320)
    reference, vae, audio = start = lane((inputs[name] for name in ("reference", "vae", "audio")), LANES)
    reference, vae, audio = first = lane(start, LANES)
    up = Dot(vae, at=RISE)
    frames = Node("VAEDecode", {"samples": clip["clip"], "vae": up}, 220)
    reference, audio = Dot(reference, at=LANES), Dot(audio, at=first[-1].at)
    film = Node("Hallo3AppendClip", {"clip": frames["IMAGE"], "audio": audio, "reference": reference}, 260)
    columns = [start, [clip], [up, *first], [frames], [reference, audio], [film]]
    sampling = Stage("Video transformer: one clip", columns, MADE, drop=TOP)
    faces = Node("PreviewImage", {"images": inputs["marked"]}, 300, 270, "Is it the right face?", drop=40)
    over = Dot(inputs["framed"], at=10)  # above the first picture
    turn = Dot(over, at=10)
    frame = Node("PreviewImage", {"images": turn}, 300, 270, "As the video begins", drop=40)
    looks = Stage("Identity: as it was found", [[over], [faces], [turn], [frame]], SHOWN)
    words = f"""
# One clip, stage by stage
The first 1.88 seconds of a video, with a look at each stage on the way. Is the right face marked? Is the portrait
framed as you like it? Do the lips follow?
{STEPS}
Good? Take the same settings to **hallo3_long_video**, or go on with **hallo3_chained_clips**. **Sample Clip** makes
49 frames as a latent of 13, **VAE Decode** the pictures. **Append Clip** leaves out the first 2, which repeat the
clip before, and the bars of a padded portrait. **Create Video** joins 25 frames a second with the sound.
"""
    shown = shown_with_sound(film["film"], film["sound"], "single_clip")
    columns = [[guide(words), own.stage], inputs.stages, [sampling, looks], [shown]]
    return Drawing("hallo3_single_clip", columns)


def chained_clips() -> Drawing:
    """Two rows of nodes that share a bundle of links between them."""
    own = given()
    inputs = scene(video_transformer(), said(), heard(own["sound"]), seen(own["image"]))
    low = LANES + 240  # the lower row
    beside = {**inputs.conditions, "model": Dot(inputs["model"], at=LANE)}
    start = dict(zip(beside, lane(beside.values(), LANES), strict=True))
    reference, vae, audio = lane((start[name] for name in ("reference", "vae", "audio")), LANES)
    upper = Node("Hallo3SampleClip", {**inputs.conditions, "clip_index": 0}, 320)
    up = Dot(vae, at=RISE)
    frames = Node("VAEDecode", {"samples": upper["clip"], "vae": up}, 200)
    near, sounding = Dot(reference, at=LANES), Dot(audio, at=LANES + 2 * LANE)
    held = {"frames": frames["IMAGE"], "reference": near, "strength": 0.5}
    held = Node("Hallo3ColorMatch", held, 240)
    end, last = Dot(near, at=LANES), Dot(sounding, at=LANES + 2 * LANE)
    film = {"clip": held["frames"], "audio": last, "reference": end, "clip_index": 0}
    film = Node("Hallo3AppendClip", film, 250)
    motion = Node("Hallo3MotionFrames", {"frames": held["frames"]}, 250)
    turn = Dot(motion["motion"], at=LANES + 5 * LANE)
    back = Dot(turn, at=LANES + 6 * LANE)
    lower = Node("Hallo3SampleClip", {**start, "motion": back, "clip_index": 1}, 320, at=low)
    second = Node("VAEDecode", {"samples": lower["clip"], "vae": vae}, 200, at=low)
    kept = {"frames": second["IMAGE"], "reference": near, "strength": 0.5}
    kept = Node("Hallo3ColorMatch", kept, 240, at=low)
    whole = {"clip": kept["frames"], "audio": last, "film": film["film"], "reference": end, "clip_index": 1}
    whole = Node("Hallo3AppendClip", whole, 250, at=low)
    more = """
**One clip more**: copy the lower row (Ctrl+C, Ctrl+Shift+V keeps its links), raise **clip_index** in both of its
nodes, link **motion** and **film** from the row above.
"""
    more = note(more, 250)
    columns = [
        [beside["model"], *start.values(), back],
        [upper, lower],
        [up, reference, vae, audio],
        [frames, second],
        [near, sounding],
        [held, kept],
        [end, last],
        [film, motion, whole, more],
        [turn],
    ]
    rows = Stage("Video transformer: clip 0, then clip 1", columns, MADE)
    words = f"""
# Clips chained by hand
What Hallo3 Long Video does inside, to change on the way: two clips of 1.88 seconds, the second going on where the
first ends.
{STEPS}
**The pattern.** **Sample Clip** with clip_index 0, then 1, 2, ...: it picks the sound. **Color Match** holds colours
to the portrait's. **Motion Frames** hands the last 2 frames to the next Sample Clip. **Append Clip** joins the clips.
Anything that keeps the size may stand between Color Match and Motion Frames.
"""
    shown = shown_with_sound(whole["film"], whole["sound"], "chained_clips", drop=low)
    columns = [[guide(words), own.stage], inputs.stages, [rows], [shown]]
    return Drawing("hallo3_chained_clips", columns)


def guidance_grid() -> Drawing:
    own = given()
    inputs = scene(video_transformer(), said(), heard(own["sound"]), seen(own["image"]))
    grid = Node("Hallo3GuidanceGrid", inputs.conditions, 360)
    words = """
Every combination of the lists is one cell. A cell costs **steps** x 2 model calls where audio and text scale are
equal, 3 where they are not, one more where the reference scale is not 1. **frames** "8, 24, 40" shows movement.
"""
    sampling = Stage("Video transformer: many scales", [[grid, note(words, 360, "Cost")]], MADE, drop=TOP)
    look = Node("PreviewImage", {"images": grid["sheets"]}, 560, 560, "The grid")
    start = f"""
# Which scales?
The same clip with many guidance scales side by side, with few steps, before a long video is made with one of them:
sound down, text across, a sheet for each reference scale.
{STEPS}
**audio**: how closely mouth and head follow the sound. 3.5 as the original; beyond 6 it exaggerates. **text**: how
closely the scene follows the prompt. **reference**: how closely the person follows the portrait; 1 as the original,
1.2 to 2 holds the likeness harder.
"""
    shown = Stage("Contact sheet", [[look]], SHOWN, drop=TOP)
    return Drawing("hallo3_guidance_grid", [[guide(start), own.stage], inputs.stages, [sampling], [shown]])


CALM = "A woman stands in a quiet library and talks calmly, hands folded, warm lamp light, the background is still."
LIVELY = (
    "A woman talks while walking along a stormy beach, waves break behind her, wind moves her hair, she gestures with "
    "both hands."
)


def scene_prompt() -> Drawing:
    own, loader = given(), text_encoder()
    calm, lively = prompt(loader, CALM, "Prompt A"), prompt(loader, LIVELY, "Prompt B")
    text = Stage("Text: two scenes", [[loader], [calm, lively]], SAID)
    text = Part(text, {"text A": calm["CONDITIONING"], "text B": lively["CONDITIONING"]})
    inputs = scene(video_transformer(lora=True), text, heard(own["sound"]), seen(own["image"]))
    names = ("model", "vae", "audio", "face", "reference")
    films = []
    for letter in "AB":
        told = {name: inputs[name] for name in names} | {"text": inputs[f"text {letter}"]}
        film = Node("Hallo3LongVideo", {**told, "steps": 30, "text_cfg": 6.0}, 360)
        made = save(film["film"], f"scene_{letter.lower()}")
        films.append(Stage(f"Video transformer: prompt {letter}", [[film], [made]], MADE))
    start = f"""
# The prompt sets the scene
Same portrait, same sound, same seed, two prompts: foreground and background follow the text. Name what is in front
and what is behind, and what each does: person, place, light, movement, in this order, in one sentence.
{STEPS}
**text_cfg** 6 instead of 3.5 follows the prompt harder. As **audio_cfg** stays at 3.5, a step costs 3 model calls
instead of 2. The face comes from the portrait whatever the prompt says. **LoRA Loader** is bypassed (Ctrl+B): with a
CogVideoX-5B-I2V LoRA in **models/loras** it adds a style or a camera movement. A quick look: **steps** 12 on both.
"""
    return Drawing("hallo3_scene_prompt", [[guide(start), own.stage], inputs.stages, films])


def low_vram() -> Drawing:
    own = given()
    parts = video_transformer("fp8"), said(), heard(own["sound"]), seen(own["image"], weight_dtype="fp8")
    inputs = scene(*parts)
    film = Node("Hallo3LongVideo", {**inputs.conditions, "steps": 30, "guidance_stop": 0.8}, 360)
    words = """
**fp8** in both loaders halves the memory of the large matrices. **guidance_stop** 0.8 (under advanced inputs) skips
guidance in the last fifth of the 30 steps. Clips leave the GPU as they finish: memory does not grow with the video's
length.
"""
    sampling = Stage(
        "Video transformer: clip after clip", [[film, note(words, 360, "What is different")]], MADE, drop=TOP
    )
    shown = Stage("Video", [[save(film["film"], "low_vram")]], SHOWN, drop=TOP)
    start = f"""
# On a small GPU
The same video with less memory on the GPU, and in less time.
{STEPS}
**How ComfyUI is started.** Nothing special first: it keeps on the GPU what fits and streams the rest.
**--reserve-vram 1.5** if other programs use the GPU, **--lowvram** if memory still runs out, **--preview-method
none** for no previews.

**Still too much?** 480x320 in Hallo3 Reference has less than half the pixels. The model was trained on 720x480, so
look before you make a long one. Files written by **convert --dtype fp8** are smaller on disk too.
"""
    return Drawing("hallo3_low_vram", [[guide(start), own.stage], inputs.stages, [sampling], [shown]])


def clean_vocals() -> Drawing:
    own = given()
    inputs = scene(video_transformer(), said(), heard_apart(own["sound"]), seen(own["image"]))
    film = Node("Hallo3LongVideo", inputs.conditions, 360)
    sampling = Stage("Video transformer: clip after clip", [[film]], MADE, drop=TOP)
    parts = Node("GetVideoComponents", {"video": film["film"]}, 220)
    aside = """
The video that comes out of Long Video carries the voice alone, since that is what was encoded. Here the whole
recording is put back.
"""
    words = f"""
# A voice with music
The voice is parted from the music with the release's Kim_Vocal_2, the mouth follows the voice alone, and the video
gets the whole recording.
{STEPS}
Needs the package **audio-separator** (**pip install "audio-separator[cpu]"** with ComfyUI's Python) and the program
ffmpeg; the node says so. Listen to **The voice** and **The rest**: what is left of the music disturbs the lips. Clean
speech does not need this: use **hallo3_long_video**.
"""
    start = guide(words)
    near, far, sound = under_all(own["sound"], note_height(start.inputs["text"], start.width))
    up = Dot(sound, at=280)
    shown = shown_with_sound(parts["images"], up, "clean_vocals")
    shown.columns = [[parts, note(aside, 220)], [up], *shown.columns]
    columns = [[start, own.stage], [near, far], inputs.stages, [sampling], [sound], [shown]]
    return Drawing("hallo3_clean_vocals", columns)


def core_sampler() -> Drawing:
    own = given()
    inputs = scene(video_transformer(), said(), heard(own["sound"]), seen(own["image"]))
    guider = Node("Hallo3Guider", inputs.conditions, 300, at=20)
    over, empty = lane((guider["guider"], guider["empty_clip"]), 16)
    noise = Node("RandomNoise", width=230, at=180)
    solver = Node("KSamplerSelect", {"sampler_name": "dpmpp_2m"}, 230)
    sigmas = Node("Hallo3Scheduler", {"steps": 30}, 230)
    clip = {"noise": noise["NOISE"], "guider": over, "sampler": solver["SAMPLER"]}
    clip = {**clip, "sigmas": sigmas["sigmas"], "latent_image": empty}
    clip = Node("SamplerCustomAdvanced", clip, 230)
    low = 800
    start = lane((inputs[name] for name in ("reference", "vae", "audio")), low)
    reference, vae, audio = first = lane(start, low)
    up = Dot(vae, at=RISE)
    frames = Node("VAEDecode", {"samples": clip["output"], "vae": up}, 200)
    reference, audio = Dot(reference, at=low), Dot(audio, at=first[-1].at)
    film = Node("Hallo3AppendClip", {"clip": frames["IMAGE"], "audio": audio, "reference": reference}, 250)
    columns = [
        start,
        [guider],
        [over, empty],
        [noise, solver, sigmas],
        [clip],
        [up, *first],
        [frames],
        [reference, audio],
        [film],
    ]
    sampling = Stage("Video transformer: core's sampler", columns, MADE, drop=TOP)
    words = f"""
# Core's samplers
One clip with ComfyUI's own sampler nodes, to try its solvers and schedules on Hallo3.
{STEPS}
**Hallo3 Guider** holds all conditions and the three scales. **Hallo3 Scheduler** gives the original's noise levels:
they begin at pure noise, as the model was trained. **KSamplerSelect**: dpmpp_2m and ddim need few steps; dpmpp_2m_sde
adds noise on the way, as the original does. **RandomNoise**: the seed of the clip; keep the Guider's seed the same.
EasyCache may stand behind the Model Loader.

Hallo3 Sample Clip samples exactly as the original; this way draws its noise otherwise, so its videos differ.
"""
    shown = shown_with_sound(film["film"], film["sound"], "core_sampler")
    columns = [[guide(words), own.stage], inputs.stages, [sampling], [shown]]
    return Drawing("hallo3_core_sampler", columns)


QUICK_START = f"""
# A portrait talks
One picture, one recording and one prompt become a video with sound, saved in **output/hallo3**.
{STEPS}
**seed**, **steps** and the scales are in the middle node; 20 to 30 steps are enough for a look. Its small square
opens it: inside are the stages, as in **hallo3_long_video**.
{MODELS}
"""


def quick_start() -> dict:
    """The first workflow to open: the block with its inputs and output. Positions for `canvas.js`, by node type."""
    width, height = 540, note_height(QUICK_START, 540)
    top = height + 3 * GAP
    inputs = [0, top, width, 44 + 30 + 330 + 60 + 136 + 24]
    bottom = inputs[1] + inputs[3]
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, "hallo3_quick_start")),
        "words": unwrapped(QUICK_START),
        "prefix": "hallo3/quick_start",
        "MarkdownNote": [0, 30, width, height],
        "LoadImage": [24, top + 74, 230, 330],
        "LoadAudio": [24, top + 74 + 330 + 60, 230, 136],
        "Hallo3SampleInputs": [24 + 230 + 32, top + 74, 230, 300],
        "block": [width + 80, 74, 420, 660],
        "SaveVideo": [width + 80 + 420 + 100, 74, 460, 480],
        "groups": [
            {"title": "Inputs: yours, or the samples", "bounding": inputs, "color": GIVEN},
            {"title": "Models, stages and sampling: one node", "bounding": [width + 56, 0, 468, bottom], "color": MADE},
            {"title": "Video", "bounding": [width + 568 + 8, 0, 508, bottom], "color": SHOWN},
        ],
    }


ALL = (
    long_video,
    single_clip,
    chained_clips,
    guidance_grid,
    scene_prompt,
    low_vram,
    clean_vocals,
    core_sampler,
)
