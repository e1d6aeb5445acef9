"""The shipped workflows, one function each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from . import blocks
from .drawing import LANE, Block, Dot, Drawing, Node, Output, Stage
from .stages import (
    DARK,
    HEARD,
    LIVELY,
    MADE,
    PROMPT,
    SHOWN,
    VOCAL_FILES,
    WHO,
    Part,
    create,
    given,
    lane,
    links,
    models,
    moving,
    note,
    prompt,
    save,
)

STEPS = """
1. **Run**: it works as it is, with a drawn portrait and a spoken sentence.
2. **Your portrait**: choose or upload a picture in **Hallo3 Portrait**: one whole face that looks ahead.
3. **Your voice**: choose or upload clear speech in **Hallo3 Voice**; **start** and **length** cut it. Or enable Record
Audio (Ctrl+B) and link it in Voice's place.
4. **The prompt**: one sentence about person and place. It steers background, light and gestures.
"""
WIDE = 490  # of the guide: about as wide as the inputs below it
BLOCK, SAMPLER = 296, 306


def above(outputs: Iterable[Output | Dot]) -> tuple[list[Dot], list[Dot], int]:
    """Links that pass above a stage's nodes: their dots before and after, and the room that they take."""
    before = lane(outputs, 0)
    return before, lane(before, 0), LANE * len(before)


SCENE_SCALE = 2.0  # of sound and prompt: with the toy release the waves move, and the picture stays whole


def guide(text: str) -> Node:
    return note(text, WIDE, "Start here")


def read(own: Part, **values: Any) -> Block:
    """The block that reads portrait, recording and prompt."""
    inputs = {"image": own["image"], "audio": own["audio"], "text": PROMPT, **values}
    return Block(blocks.read(), inputs, BLOCK, colour=DARK)


def once(*parts: Node | Block, over: Iterable[Output | Dot] = ()) -> tuple[Stage, list[Dot]]:
    """The stage with a block, and links that pass above it."""
    before, after, room = above(over)
    parts[0].at = room
    return Stage("Models and inputs, read once", [before, parts, after] if room else [parts], WHO), after


def conditions(block: Block) -> dict[str, Output]:
    """The inputs of a sampler."""
    return {name: block[name] for name in blocks.CONDITIONS}


def quick_start() -> Drawing:
    return Drawing("hallo3_quick_start", _quick_start(given())[0])


def _quick_start(own: Part, **values: Any) -> tuple[list, Block, Node, Node]:
    block = read(own)
    film = Node("Hallo3LongVideo", {**conditions(block), **values}, SAMPLER)
    saved = save(film["film"], "quick_start", 420)
    start = f"""
# A portrait talks
One picture, one recording and one prompt become a video with sound, saved in **output/hallo3**.
{STEPS}
20 to 30 **steps** are enough for a look. The block's small square opens it: inside are the stages.
"""
    sampling = Stage("Video transformer: clip after clip", [[film]], MADE)
    shown = Stage("Video", [[saved, models(420)]], SHOWN)
    return [[guide(start), own.stage], [once(block)[0]], [sampling], [shown]], block, film, saved


def app() -> Drawing:
    """The quick start in App mode."""
    own = given()
    columns, block, film, saved = _quick_start(own)
    (picture,), _, (voice, _), _ = own.stage.columns
    return Drawing("hallo3_quick_start.app", columns, _shown(picture, voice, block, film, saved))


def microphone_app() -> Drawing:
    """The same, with the microphone."""
    own = given(recorded=True)
    columns, block, film, saved = _quick_start(own)
    (picture,), _, (voice,), _ = own.stage.columns
    shown = _shown(picture, voice, block, film, saved)
    return Drawing("hallo3_microphone.app", columns, shown)


LINES = {
    "seed": "another number: another take",
    "steps": "20 to 30 are enough for a look",
    "audio_cfg": "how closely the mouth follows the voice",
    "text_cfg": "how closely the scene follows the text",
    "reference_cfg": "how closely the likeness is held",
}


def _shown(picture: Node, voice: Node, block: Block, film: Node, saved: Node) -> list[tuple[Node | Block, str, str]]:
    return [
        (picture, "image", "your portrait: one whole face that looks ahead"),
        (voice, "audio", "your voice: clear speech, without music"),
        (block, "text", "one sentence about person and place"),
        *((film, name, line) for name, line in LINES.items()),
        (saved, "video", ""),
    ]


def long_video() -> Drawing:
    own, loader = given(), moving()
    (model,) = loader.stage.columns[0]
    said = Block(blocks.text(), {"text": PROMPT}, BLOCK, colour=DARK)
    heard = Block(blocks.speech(), {"audio": own["audio"]}, BLOCK, colour=DARK)
    seen = Block(blocks.identity(), {"image": own["image"]}, BLOCK, colour=DARK)
    inputs = {"model": loader["model"], "text": said["text"], "vae": seen["vae"], "audio": heard["audio"]}
    film = Node("Hallo3LongVideo", {**inputs, "face": seen["face"], "reference": seen["reference"]}, SAMPLER)
    words = """
**A clip** is 1.88 s of video. It costs **steps** x 2 model calls while **audio_cfg** = **text_cfg** and
**reference_cfg** = 1.

**Long videos**: **color_hold** 0.5 keeps the colours the portrait's, **seam_fade** 8 hides jumps between clips. With a
name in **resume_key**, a run that was stopped goes on where it was.
"""
    start = f"""
# A portrait talks, stage by stage
One picture, one recording and one prompt become a video with sound, as long as the recording. It is saved in
**output/hallo3**.
{STEPS}
**What happens.** T5 reads the prompt. wav2vec2 hears the whole recording. The face is found, and the reference
network looks at it once. The video transformer makes clips of 49 frames, each going on from the last 2 frames of the
one before. Run again with another seed or scale: only the sampling is done again.
"""
    sampling = Stage("Video transformer: clip after clip", [[film]], MADE)
    shown = Stage("Video", [[save(film["film"], "long_video"), note(words, 340, "Cost"), models(340)]], SHOWN)
    columns = [[guide(start), own.stage], [once(model, said, heard, seen)[0]], [sampling], [shown]]
    return Drawing("hallo3_long_video", columns)


def shown_with_sound(images: Output, sound: Output | Dot, name: str, width: int = 330) -> list[Node]:
    video = create(images, sound)
    return [video, save(video["VIDEO"], name, width)]


def single_clip() -> Drawing:
    own = given(microphone=False)
    block = read(own)
    before, after, room = above(conditions(block).values())
    faces = Node("PreviewImage", {"images": block["marked"]}, 202, 230, "Is it the right face?", at=room)
    framed = Node("PreviewImage", {"images": block["framed"]}, 202, 230, "As the video begins")
    looks = Stage("Identity: as found", [before, [faces, framed], after], WHO)
    told = dict(zip(blocks.CONDITIONS, after, strict=True))
    before, (vae, audio, reference), room = above(told[name] for name in ("vae", "audio", "reference"))
    clip = Node("Hallo3SampleClip", told, SAMPLER, at=room)
    frames = Node("VAEDecode", {"samples": clip["clip"], "vae": vae}, 300)
    film = Node("Hallo3AppendClip", {"clip": frames["IMAGE"], "audio": audio, "reference": reference}, 300)
    made = shown_with_sound(film["film"], film["sound"], "single_clip", 300)
    sampling = Stage("Video transformer: one clip", [before, [clip], [vae, audio, reference]], MADE)
    shown = Stage("Video", [[frames, film, *made]], SHOWN)
    words = f"""
# One clip, with a look at each stage
The first 1.88 seconds of a video. Is the right face marked? Is the portrait framed as you like it? Do the lips follow?
{STEPS}
Good? Take the same settings to **hallo3_long_video**, or go on with **hallo3_chained_clips**. **Sample Clip** makes
49 frames as a latent of 13, **VAE Decode** the pictures. **Append Clip** leaves out the first 2, which repeat the
clip before, and the bars of a padded portrait. **Create Video** joins 25 frames a second with the sound.
"""
    columns = [[guide(words), own.stage], [once(block)[0]], [looks], [sampling], [shown]]
    return Drawing("hallo3_single_clip", columns)


def chained_clips() -> Drawing:
    own = given(microphone=False)
    block = read(own)
    before, after, room = above(conditions(block).values())
    first = Block(blocks.clip(), {**conditions(block), "clip_index": 0}, 256, "Clip 0", DARK, at=room)
    inputs = dict(zip(blocks.CONDITIONS, after, strict=True))
    inputs |= {"motion": first["motion"], "film": first["film"], "clip_index": 1}
    second = Block(blocks.clip(), inputs, 256, "Clip 1", DARK, at=room)
    words = f"""
# Clips chained by hand
What Hallo3 Long Video does inside, to change on the way: two clips of 1.88 seconds, the second going on where the
first ends. The sample is two clips long.
{STEPS}
**One clip more**, for a longer recording of yours: copy **Clip 1** with Ctrl+C and Ctrl+Shift+V, which keeps its links,
raise its **clip_index** to 2, link its **motion** and **film** from Clip 1, and its **film** and **sound** to Create
Video.

**Inside a clip** (its small square opens it): **Sample Clip** picks the sound by clip_index. **Color Match** holds the
colours to the portrait's. **Motion Frames** hands on the last 2 frames, **Append Clip** joins. What keeps the size may
stand between Color Match and Motion Frames. All clips share one inside.
"""
    rows = Stage("Video transformer: clip 0, then clip 1", [before, [first], after, [second]], MADE)
    shown = Stage("Video", [shown_with_sound(second["film"], second["sound"], "chained_clips")], SHOWN)
    columns = [[guide(words), own.stage], [once(block)[0]], [rows], [shown]]
    return Drawing("hallo3_chained_clips", columns)


def guidance_grid() -> Drawing:
    own = given()
    block = read(own)
    grid = Node("Hallo3GuidanceGrid", conditions(block), SAMPLER)
    words = """
Every combination of the lists is one cell. A cell costs **steps** x 2 model calls where audio and text scale are
equal, 3 where they are not, one more where the reference scale is not 1. **frames** "8, 24, 40" shows movement.
"""
    aside = note(words, BLOCK, "Cost")
    sampling = Stage("Video transformer: many scales", [[grid]], MADE)
    look = Node("PreviewImage", {"images": grid["sheets"]}, 500, 540, "The grid")
    start = f"""
# Which scales?
The same clip with many guidance scales side by side, with few steps, before a long video is made with one of them:
sound down, text across, a sheet for each reference scale.
{STEPS}
**audio**: how closely mouth and head follow the sound. 3.5 as the original; beyond 6 it exaggerates. **text**: how
closely the scene follows the prompt. **reference**: how closely the person follows the portrait; 1 as the original,
1.2 to 2 holds the likeness harder.
"""
    shown = Stage("Contact sheet", [[look, models(500)]], SHOWN)
    return Drawing(
        "hallo3_guidance_grid",
        [[guide(start), own.stage], [once(block, aside)[0]], [sampling], [shown]],
    )


def scene_prompt() -> Drawing:
    own = given(microphone=False)
    block = read(own)
    lively = prompt(block["clip"], LIVELY, "Prompt B", BLOCK)
    scaled = {"steps": 30, "text_cfg": SCENE_SCALE, "audio_cfg": SCENE_SCALE}
    before, after, room = above({**conditions(block), "text": lively["CONDITIONING"]}.values())
    calm_film = Node("Hallo3LongVideo", {**conditions(block), **scaled}, 264, at=room)
    told = dict(zip(blocks.CONDITIONS, after, strict=True))
    (over,), (passed,), room = above([calm_film["film"]])
    lively_film = Node("Hallo3LongVideo", {**told, **scaled}, 264, at=room)
    films = [
        Stage("Video transformer: prompt A", [before, [calm_film], after], MADE),
        Stage("Video transformer: prompt B", [[over], [lively_film], [passed]], MADE),
    ]
    saved = save(passed, "scene_a", 280), save(lively_film["film"], "scene_b", 280)
    shown = Stage("Videos A and B", [saved], SHOWN)
    start = f"""
# The prompt sets the scene
Same portrait, same sound, same seed, two prompts: in A the waves stand still, in B they roll. Name what is in front and
what is behind, and what each does: person, place, light, movement, in this order, in one sentence.
{STEPS}
**Prompt A** is in the block, **Prompt B** below it. A higher **text_cfg** follows the prompt harder; where it differs
from **audio_cfg**, a step costs 3 model calls instead of 2. The face comes from the portrait whatever the prompt says.
Inside the block waits a **LoRA Loader** (Ctrl+B): with a CogVideoX-5B-I2V LoRA in **models/loras** it adds a style or a
camera movement.
"""
    columns = [[guide(start), own.stage], [once(block, lively)[0]], *([film] for film in films), [shown]]
    return Drawing("hallo3_scene_prompt", columns)


def low_vram() -> Drawing:
    own = given()
    block = read(own, weight_dtype="fp8")
    film = Node("Hallo3LongVideo", {**conditions(block), "steps": 30, "guidance_stop": 0.8}, SAMPLER)
    words = """
**weight_dtype** fp8 in the block halves the memory of the large matrices. **guidance_stop** 0.8 (under advanced inputs)
skips guidance in the last fifth of the 30 steps. Clips leave the GPU as they finish: memory does not grow with the
video's length.
"""
    aside = note(words, BLOCK, "What is different")
    sampling = Stage("Video transformer: clip after clip", [[film]], MADE)
    shown = Stage("Video", [[save(film["film"], "low_vram", 420), models(420)]], SHOWN)
    start = f"""
# On a small GPU
The same video with less memory on the GPU, and in less time.
{STEPS}
**How ComfyUI is started.** Nothing special first: it keeps on the GPU what fits and streams the rest.
**--reserve-vram 1.5** if other programs use the GPU, **--lowvram** if memory still runs out, **--preview-method
none** for no previews.

**Still too much?** width 480 and height 320 have less than half the pixels. The model was trained on 720x480, so look
before you make a long one. Files written by **convert --dtype fp8** are smaller on disk too.
"""
    return Drawing("hallo3_low_vram", [[guide(start), own.stage], [once(block, aside)[0]], [sampling], [shown]])


def clean_vocals() -> Drawing:
    own = given(microphone=False)
    before, (image, sound), room = above([own["image"], own["audio"]])
    files = links("audio_separator", *VOCAL_FILES)
    parted = Node("Hallo3SeparateVocals", {"audio": own["audio"]}, 205, models=files, at=room)
    apart = Stage("Voice and music apart", [before, [parted], [image, sound]], HEARD)
    block = read(Part(own.stage, {"image": image, "audio": parted["vocals"]}, {}))
    voice = Node("PreviewAudio", {"audio": parted["vocals"]}, BLOCK, title="The voice")
    rest = Node("PreviewAudio", {"audio": parted["rest"]}, BLOCK, title="The rest")
    reading, (sound,) = once(block, voice, rest, over=[sound])
    before, after, room = above([sound])
    film = Node("Hallo3LongVideo", conditions(block), 280, at=room)
    parts = Node("GetVideoComponents", {"video": film["film"]}, 290)
    words = f"""
# A voice with music
The voice is separated from the music with the release's Kim_Vocal_2, the mouth follows the voice alone, and the video
gets the whole recording.
{STEPS}
Needs the package **audio-separator** (**pip install "audio-separator[cpu]"** with ComfyUI's Python) and the program
ffmpeg; the node says so. Listen to **The voice** and **The rest**: what is left of the music disturbs the lips. Clean
speech does not need this: use **hallo3_long_video**.
"""
    aside = """
The video that comes out of Long Video carries the voice alone, since that is what was encoded. Here the whole
recording is put back.
"""
    sampling = Stage("Video transformer: clip after clip", [before, [film], after], MADE)
    made = shown_with_sound(parts["images"], after[0], "clean_vocals", 290)
    shown = Stage("Video", [[parts, *made, note(aside, 290)]], SHOWN)
    columns = [[guide(words), own.stage], [apart], [reading], [sampling], [shown]]
    return Drawing("hallo3_clean_vocals", columns)


def core_sampler() -> Drawing:
    own = given(microphone=False)
    block = read(own)
    before, after, room = above(block[name] for name in ("vae", "audio", "reference"))
    guider = Node("Hallo3Guider", conditions(block), 266, at=room)
    noise = Node("RandomNoise", width=266)
    solver = Node("KSamplerSelect", {"sampler_name": "dpmpp_2m"}, 266)
    sigmas = Node("Hallo3Scheduler", {"steps": 30}, 266)
    clip = {"noise": noise["NOISE"], "guider": guider["guider"], "sampler": solver["SAMPLER"]}
    clip = {**clip, "sigmas": sigmas["sigmas"], "latent_image": guider["empty_clip"]}
    clip = Node("SamplerCustomAdvanced", clip, 266, at=room + 220)
    vae, audio, reference = after
    frames = Node("VAEDecode", {"samples": clip["output"], "vae": vae}, 330)
    film = Node("Hallo3AppendClip", {"clip": frames["IMAGE"], "audio": audio, "reference": reference}, 330)
    columns = [before, [guider, noise, solver, sigmas], [clip], after]
    sampling = Stage("Video transformer: core's sampler", columns, MADE)
    words = f"""
# Core's samplers
One clip with ComfyUI's own sampler nodes, to try its solvers and schedules on Hallo3.
{STEPS}
**Hallo3 Guider** holds all conditions and the three scales. **Hallo3 Scheduler** gives the original's noise levels:
they begin at pure noise, as the model was trained. **KSamplerSelect**: dpmpp_2m and ddim need few steps; dpmpp_2m_sde
adds noise on the way, as the original does. **RandomNoise**: the seed of the clip; keep the Guider's seed the same.
EasyCache may stand behind the block's **model**.

Hallo3 Sample Clip samples exactly as the original; this way draws its noise otherwise, so its videos differ.
"""
    shown = Stage("Video", [[frames, film, *shown_with_sound(film["film"], film["sound"], "core_sampler")]], SHOWN)
    columns = [[guide(words), own.stage], [once(block)[0]], [sampling], [shown]]
    return Drawing("hallo3_core_sampler", columns)


def alone(name: str) -> Drawing:
    """A shipped block by itself, as the page offers it beside nodes."""
    return Drawing(name, [[Block(blocks.SHIPPED[name](), {"text": PROMPT}, 400)]])


ALL = (
    quick_start,
    app,
    microphone_app,
    long_video,
    single_clip,
    chained_clips,
    guidance_grid,
    scene_prompt,
    low_vram,
    clean_vocals,
    core_sampler,
)
