"""The workflows that ship, one function each."""

from __future__ import annotations

from .drawing import Dot, Drawing, Node, Output, Stage
from .stages import (
    MADE,
    SAID,
    SHOWN,
    create,
    heard,
    heard_apart,
    lane,
    note,
    prompt,
    said,
    samples,
    save,
    scene,
    seen,
    text_encoder,
    video_transformer,
)

MODELS = """
The official release (40 GB) belongs in `models/hallo3/release/` of ComfyUI:
`python -m hallo3_core download FOLDER`, run in this pack's folder, or by hand from
[fudan-generative-ai/hallo3](https://huggingface.co/fudan-generative-ai/hallo3). Under another name, or converted?
Choose it in the loaders.
"""
SENTENCE = """
One sentence about person and place. It steers background, light and gestures; the face comes from the portrait, the
mouth from the sound.
"""
SIZE = """
The reference network sees the face alone, through its mask. Width and height are the film's: 720x480 as trained.
"""
INPUTS = """
1. **Load Image**: a picture with one whole face that looks ahead.
2. **Load Audio**: clear speech of any length, without music.
3. **CLIP Text Encode**: the sentence.
"""


def guide(text: str, height: int) -> Node:
    return note(text, 380, height, "Start here")


def long_video() -> Drawing:
    inputs = scene(video_transformer(MODELS), said(SENTENCE), heard(), seen(SIZE))
    film = Node("Hallo3LongVideo", inputs.conditions, 340)
    words = """
**Cost** of a clip (1.88 s of film): `steps` x 2 evaluations while `audio_cfg` = `text_cfg` and `reference_cfg` = 1.

20 to 30 steps are enough for a look. For a long film set `color_hold` to 0.5, which keeps its colours the portrait's,
and give `resume_key` a name: after Cancel or a crash the next run goes on with the clips that are there.
"""
    sampling = Stage("Video transformer: clip after clip", [[note(words, 340, 200), film]], MADE, drop=380)
    shown = Stage("Film", [[save(film["film"], "long_video")]], SHOWN, drop=644)
    start = f"""
# A portrait talks
One picture, one recording and one sentence become a film with sound.
{INPUTS}
4. **Run**. The film is saved in `output/hallo3`.

The green nodes are yours to change; the others work as they are. Nothing at hand? The node below puts a drawn portrait
and a spoken sentence into the input folder: select it, Ctrl+B, Run, then R for the page to see them.

## What happens
* **Text**: T5 reads the sentence.
* **Speech**: wav2vec2 hears the whole recording; the film gets its length, 25 frames a second.
* **Identity**: the face is found, and the reference network looks at it once.
* **Video transformer**: clips of 49 frames, each going on from the last 2 frames of the one before.
* **Film**: H.264 with the sound.

Run again with another seed or scale: only the sampling is done again.
"""
    return Drawing("hallo3_long_video", [[guide(start, 700), samples()], inputs.stages, [sampling], [shown]])


def shown_with_sound(images: Output, sound: Output | Dot, name: str, drop: int) -> Stage:
    video = create(images, sound)
    return Stage("Film", [[video], [save(video["VIDEO"], name)]], SHOWN, drop=drop)


def single_clip() -> Drawing:
    inputs = scene(video_transformer(MODELS), said(SENTENCE), heard(), seen(SIZE, looks=True))
    words = """
Samples 49 frames of the film, clip 0 first. The **latent** holds them as 13 frames of an eighth of the size.

**Cost**: `steps` x 2 evaluations at the default scales. Other scales: Hallo3 Guidance Grid compares them.
"""
    clip = Node("Hallo3SampleClip", inputs.conditions, 340)
    under = lane(inputs[name] for name in ("sound", "audio", "vae", "reference"))
    beside = lane(under, drop=660)
    sound, audio, vae, reference = beside
    sampling = Stage("Video transformer: one clip", [[note(words, 340, 150), clip, *under], beside], MADE, drop=270)
    frames = Node("VAEDecode", {"samples": clip["clip"], "vae": vae}, 240)
    film = Node("Hallo3AppendClip", {"clip": frames["IMAGE"], "audio": audio, "reference": reference}, 280)
    words = "Leaves out the first 2 frames, which repeat the clip before, and the bars of a padded portrait."
    decoded = Stage("Video VAE: latent to frames", [[frames], [film, note(words, 280, 90)]], MADE, drop=790)
    look = Node("PreviewImage", {"images": inputs["framed"]}, 340, 260, "As the film begins")
    looks = Stage("Identity: as framed", [[look]], SHOWN)
    start = f"""
# One clip, stage by stage
The first 1.88 seconds of a film, with a look at each stage on the way.
{INPUTS}
4. **Run**, and look: is the right face marked? Is the portrait framed as you like it? Do the lips follow?

Good? Take the same settings to `hallo3_long_video`, or go on with `hallo3_chained_clips`.

## What happens
* **Text**: T5 reads the sentence.
* **Speech**: wav2vec2 hears the whole recording.
* **Identity**: the face is found; the reference network looks at it once.
* **Video transformer**: noise becomes a clip's latent.
* **Video VAE**: the latent becomes frames.
* **Film**: 25 frames a second, with the sound.
"""
    columns = [
        [guide(start, 640)],
        inputs.stages,
        [sampling, looks],
        [decoded],
        [shown_with_sound(film["film"], sound, "single_clip", drop=790)],
    ]
    return Drawing("hallo3_single_clip", columns)


def chained_clips() -> Drawing:
    inputs = scene(video_transformer(MODELS), said(SENTENCE), heard(), seen(SIZE))
    bus = lane([*inputs.conditions.values(), inputs["sound"]], drop=740)
    given = dict(zip(inputs.conditions, bus[:-1], strict=True))
    names = ("vae", "reference", "audio")
    # The upper row has its lanes below, the lower one above, so that both run between the rows.
    beside = lane((given[name] for name in names), drop=490)
    vae, reference, audio = beside
    clip = Node("Hallo3SampleClip", given, 340)
    frames = Node("VAEDecode", {"samples": clip["clip"], "vae": vae}, 240, drop=230)
    held = Node("Hallo3ColorMatch", {"frames": frames["IMAGE"], "reference": reference, "strength": 0.5}, drop=230)
    film = Node("Hallo3AppendClip", {"clip": held["frames"], "audio": audio, "reference": reference}, drop=330)
    motion = Node("Hallo3MotionFrames", {"frames": held["frames"]}, drop=120)
    back = Dot(motion["motion"], drop=560)
    columns = [[clip], beside, [frames], [held], [film], [motion], [back]]
    upper = Stage("Video transformer: clip 0", columns, MADE, drop=180)

    beside = lane((given[name] for name in names), drop=30)
    vae, reference, audio = beside
    clip = Node("Hallo3SampleClip", {**given, "motion": Dot(back), "clip_index": 1}, 340, drop=60)
    frames = Node("VAEDecode", {"samples": clip["clip"], "vae": vae}, 240, drop=90)
    held = Node("Hallo3ColorMatch", {"frames": frames["IMAGE"], "reference": reference, "strength": 0.5}, drop=90)
    inputs_of_film = {"clip": held["frames"], "audio": audio, "film": film["film"], "reference": reference}
    film = Node("Hallo3AppendClip", {**inputs_of_film, "clip_index": 1}, drop=90)
    words = """
**One clip more**: copy this row (Ctrl+C, Ctrl+Shift+V keeps its links), raise `clip_index` in both of its nodes, link
`motion` and `film` from the row above. Hallo3 Audio Encode says how many `clips` the sound has.
"""
    more = note(words, 280, 190)
    more.drop = 230
    sound = Dot(bus[-1])
    first = [clip.inputs["motion"], clip, sound]
    lower = Stage("Video transformer: clip 1", [first, beside, [frames], [held], [more], [film]], MADE)
    rows = [upper, lower]
    start = f"""
# Clips chained by hand
What Hallo3 Long Video does inside, to change on the way: two clips of 1.88 seconds, the second going on where the first
ends.
{INPUTS}
4. **Run**.

## The pattern
* **Sample Clip** with `clip_index` 0, then 1, 2, ...: it picks the sound.
* **Color Match** holds colours to the portrait's, so that they do not drift.
* **Motion Frames** hands the last 2 frames to the next Sample Clip's `motion`.
* **Append Clip** joins the clips to a film.

Anything that keeps the size may stand between Color Match and Motion Frames.
"""
    shown = shown_with_sound(film["film"], sound, "chained_clips", drop=1210)
    return Drawing("hallo3_chained_clips", [[guide(start, 600)], inputs.stages, bus, rows, [shown]])


def guidance_grid() -> Drawing:
    inputs = scene(video_transformer(MODELS), said(SENTENCE), heard(), seen(SIZE))
    grid = Node("Hallo3GuidanceGrid", inputs.conditions, 340)
    words = """
Every combination of the lists is one cell. **Cost** of a cell: `steps` x 2 evaluations where both scales are equal, 3
where they are not, one more where the reference scale is not 1.
"""
    sampling = Stage("Video transformer: many scales", [[note(words, 340, 160), grid]], MADE, drop=420)
    look = Node("PreviewImage", {"images": grid["sheets"]}, 640, 560, "The grid")
    start = f"""
# Which scales?
The same clip with many guidance scales side by side, with few steps, before a long film is made with one of them.
{INPUTS}
4. **Run**, and compare: sound down, text across, a sheet for each reference scale.

## The three scales
* **audio**: how closely mouth and head follow the sound. 3.5 as the original; beyond 6 it exaggerates.
* **text**: how closely the scene follows the sentence.
* **reference**: how closely the person follows the portrait. 1 as the original; 1.2 to 2 holds the likeness harder.

Equal audio and text scales cost least.

`frames` picks which of the clip's 49 frames are shown: "8, 24, 40" shows movement.
"""
    shown = Stage("Contact sheet", [[look]], SHOWN, drop=420)
    return Drawing("hallo3_guidance_grid", [[guide(start, 600)], inputs.stages, [sampling], [shown]])


CALM = "A woman stands in a quiet library and talks calmly, hands folded, warm lamp light, the background is still."
LIVELY = (
    "A woman talks while walking along a stormy beach, waves break behind her, wind moves her hair, she gestures with "
    "both hands."
)


def scene_prompt() -> Drawing:
    loader = text_encoder()
    calm, lively = prompt(loader, CALM, "Sentence A"), prompt(loader, LIVELY, "Sentence B")
    words = """
Name what is in front and what is behind, and what each does. Person, place, light, movement: in this order, in one
sentence.
"""
    text = Stage("Text: two scenes", [[note(words, height=220)], [loader], [calm, lively]], SAID)
    inputs = scene(video_transformer(MODELS, lora=True), heard(), seen(SIZE))
    inputs.stages.insert(1, text)
    scales = {"steps": 30, "text_cfg": 6.0}
    names = ("model", "vae", "audio", "face", "reference")
    bus = lane((inputs[name] for name in names), drop=1010)
    films, shown = [], []
    for letter, sentence, top in (("A", calm, 400), ("B", lively, 0)):
        given = dict(zip(names, bus, strict=True)) | {"text": sentence["CONDITIONING"]}
        film = Node("Hallo3LongVideo", {**given, **scales}, 340)
        films.append(Stage(f"Video transformer: sentence {letter}", [[film]], MADE, drop=top))
        name = f"scene_{letter.lower()}"
        shown.append(Stage(f"Film {letter}", [[save(film["film"], name, 400)]], SHOWN, drop=top))
    start = """
# The sentence sets the scene
Same portrait, same sound, same seed, two sentences: foreground and background follow the text.

1. **Load Image** and **Load Audio**: as always.
2. **Sentence A** and **Sentence B**: two scenes.
3. **Run**. Both films are saved in `output/hallo3`.

## Steering
* `text_cfg` 6 instead of 3.5 follows the sentence harder. As `audio_cfg` stays at 3.5, a step costs 3
  evaluations instead of 2.
* The face comes from the portrait whatever the sentence says.
* **LoRA Loader** is bypassed (Ctrl+B): with a CogVideoX-5B-I2V LoRA in `models/loras` it adds a style or a camera
movement.

A quick look: `steps` 12 on both.
"""
    return Drawing("hallo3_scene_prompt", [[guide(start, 560)], inputs.stages, bus, films, shown])


def low_vram() -> Drawing:
    inputs = scene(video_transformer(MODELS, "fp8"), said(SENTENCE), heard(), seen(SIZE, weight_dtype="fp8"))
    chosen = {"steps": 30, "guidance_stop": 0.8}
    film = Node("Hallo3LongVideo", {**inputs.conditions, **chosen}, 340)
    words = """
Clips leave the card as they finish and are written to the film: memory does not grow with its length.

`guidance_stop` 0.8 (under advanced inputs) skips guidance in the last fifth of the steps.
"""
    sampling = Stage("Video transformer: clip after clip", [[note(words, 340, 160), film]], MADE, drop=420)
    shown = Stage("Film", [[save(film["film"], "low_vram")]], SHOWN, drop=644)
    start = f"""
# On a small card
The same film with less memory on the card.
{INPUTS}
4. **Run**. The film is saved in `output/hallo3`.

## What is different
* `weight_dtype` **fp8** in both loaders: half the memory for the large matrices. Files written by
  `convert --dtype fp8` are smaller on disk too.
* 30 steps, guidance in the first 80 % of them: less time.

## How ComfyUI is started
* Nothing special first: it keeps on the card what fits and streams the rest.
* `--reserve-vram 1.5` if other programs use the card.
* `--lowvram` if it still runs out.
* `--preview-size 256` keeps previews small, `--preview-method none` switches them off.

## Still too much?
A smaller film: 480x320 in Hallo3 Reference has less than half the pixels. The model was trained on 720x480, so look
before you make a long one. With clips chained by hand, VAEDecodeTiled decodes in tiles.
"""
    return Drawing("hallo3_low_vram", [[guide(start, 680)], inputs.stages, [sampling], [shown]])


def clean_vocals() -> Drawing:
    inputs = scene(video_transformer(MODELS), said(SENTENCE), heard_apart(), seen(SIZE))
    film = Node("Hallo3LongVideo", inputs.conditions, 340, drop=200)
    words = """
The film that comes out here carries the voice alone, since that is what was encoded. The next stage puts the whole
recording back.
"""
    above = Dot(inputs["sound"])
    sound = Dot(above)
    columns = [[above, note(words, 340, 140), film], [sound]]
    sampling = Stage("Video transformer: clip after clip", columns, MADE, drop=560)
    over = Dot(sound)
    parts = Node("GetVideoComponents", {"video": film["film"]}, 240, drop=60)
    mixed = Node("CreateVideo", {"images": parts["images"], "audio": over, "fps": parts["fps"]}, 280)
    words = "All frames are in memory here, 0.1 GB a second of film at 720x480."
    music = Stage("Film with the music", [[over, parts, note(words, 240, 110)], [mixed]], SHOWN, drop=900)
    shown = Stage("Film", [[save(mixed["VIDEO"], "clean_vocals")]], SHOWN, drop=900)
    start = f"""
# A song, or speech over music
Music disturbs the lips. So the mouth follows the voice alone, and the film keeps the whole sound.
{INPUTS.replace("clear speech of any length, without music", "a voice with music or noise")}
4. **Run**. The film is saved in `output/hallo3`.

## What it needs
* the package: `python -m pip install "audio-separator[cpu]"` with ComfyUI's Python, and the program ffmpeg;
* the release's folder `audio_separator`, with `Kim_Vocal_2.onnx` and the lists beside it, in `models/hallo3/release/`.

## What happens
**Separate Vocals** parts the recording into voice and rest: listen to both. **Audio Encode** hears the voice. **Create
Video** joins the frames with the sound as it came.

Without audio-separator the node says how to install it. Clear speech does not need this workflow.
"""
    return Drawing("hallo3_clean_vocals", [[guide(start, 640)], inputs.stages, [sampling], [music], [shown]])


def core_sampler() -> Drawing:
    inputs = scene(video_transformer(MODELS), said(SENTENCE), heard(), seen(SIZE))
    guider = Node("Hallo3Guider", inputs.conditions, 320)
    noise = Node("RandomNoise", {"noise_seed": 0}, 280)
    solver = Node("KSamplerSelect", {"sampler_name": "dpmpp_2m"}, 280, drop=60)
    sigmas = Node("Hallo3Scheduler", {"steps": 30}, 280)
    empty = Node("EmptyHunyuanLatentVideo", {"width": 720, "height": 480, "length": 49}, 280, title="Empty clip")
    clip = Node(
        "SamplerCustomAdvanced",
        {
            "noise": noise["NOISE"],
            "guider": guider["guider"],
            "sampler": solver["SAMPLER"],
            "sigmas": sigmas["sigmas"],
            "latent_image": empty["LATENT"],
        },
        240,
        drop=130,
    )
    words = """
**Empty clip**: width and height of Hallo3 Reference, length 49.
"""
    under = lane((inputs[name] for name in ("sound", "audio", "vae", "reference")), drop=290)
    beside = lane(under, drop=690)
    sound, audio, vae, reference = beside
    sampling = Stage(
        "Video transformer: core's sampler",
        [[guider, *under], [noise, solver, sigmas, empty], [clip, note(words, 240, 90)], beside],
        MADE,
        drop=460,
    )
    frames = Node("VAEDecode", {"samples": clip["output"], "vae": vae}, 240)
    film = Node("Hallo3AppendClip", {"clip": frames["IMAGE"], "audio": audio, "reference": reference}, 280)
    decoded = Stage("Video VAE: latent to frames", [[frames], [film]], MADE, drop=950)
    start = f"""
# Core's samplers
One clip with ComfyUI's own sampler nodes, to try its solvers and schedules on Hallo3.
{INPUTS}
4. **Run**. The clip is saved in `output/hallo3`.

## The parts
* **Hallo3 Guider** holds all conditions and the three scales.
* **Hallo3 Scheduler** gives the original's noise levels: they begin at pure noise, as the model was trained.
* **KSamplerSelect**: `dpmpp_2m` and `ddim` need few steps; `dpmpp_2m_sde` adds noise on the way, as the original does.
* **RandomNoise**: the seed of the clip. Keep the Guider's seed the same.
* EasyCache may stand behind the Model Loader.

Hallo3 Sample Clip samples exactly as the original; this way draws its noise otherwise, so its films differ.
"""
    columns = [
        [guide(start, 600)],
        inputs.stages,
        [sampling],
        [decoded],
        [shown_with_sound(film["film"], sound, "core_sampler", drop=950)],
    ]
    return Drawing("hallo3_core_sampler", columns)


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
