"""The nodes around sampling: what they give is the core's own, a film chained by hand is the core's film, and what
a user can connect wrongly is answered."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tools.testbed.exact_film import film_clips

WIDTH, HEIGHT = 32, 16
TINY = "hallo3/tiny/"
ASSETS = Path(__file__).parents[2] / "assets"


@pytest.fixture(scope="module")
def core(pack, models):
    """The core's modules that these tests compare with."""
    places = ("inputs.audio", "film.color", "inputs.face", "inputs.image", "sampling.noise", "pipeline.options")
    places += ("pipeline.clip", "inputs.portrait", "inputs.recording", "pipeline.conditions", "clips")
    modules = {place.rpartition(".")[2]: pack(f"hallo3_core.{place}") for place in places}
    release = pack("hallo3_core.release.layout").Release(models / "hallo3" / "tiny")
    return SimpleNamespace(release=release, error=pack("hallo3_core.errors").InputError, **modules)


@pytest.fixture(scope="module")
def node(pack):
    """Run a node as the host does: `node("Hallo3AudioEncode", audio=...)`."""

    def run(key: str, **inputs):
        made = pack().NODE_CLASS_MAPPINGS[key]
        assert inputs.keys() >= made.INPUT_TYPES()["required"].keys()
        outputs = getattr(made(), made.FUNCTION)(**inputs)
        assert len(outputs) == len(made.RETURN_TYPES)
        return outputs

    return run


@pytest.fixture(scope="module")
def face_analysis(pack):
    pytest.importorskip("insightface")
    return pack("nodes.loaders").Hallo3FaceAnalysisLoader().execute(TINY, "CPU")[0]


@pytest.fixture(scope="module")
def picture(core) -> torch.Tensor:
    """The drawn portrait as LoadImage gives it, ``1 h w 3``."""
    return core.image.read_image(ASSETS / "portrait.jpg").movedim(0, -1)[None]


@pytest.fixture(scope="module")
def sound(core) -> dict:
    """The recording as LoadAudio gives it: 90 frames, 2 clips."""
    recording = core.recording.read_recording(ASSETS / "speech.flac")
    return {"waveform": recording.waveform[None], "sample_rate": recording.rate}


@pytest.fixture(scope="module")
def encoded(node, loaded, sound):
    with torch.inference_mode():
        return node("Hallo3AudioEncode", audio=sound, wav2vec=loaded.wav2vec)


@pytest.fixture(scope="module")
def found(node, picture, face_analysis):
    chosen = dict(which_face="largest", when_no_face="error", box_ratio=1.2)
    return node("Hallo3FaceEmbed", image=picture, face_analysis=face_analysis, **chosen)


@pytest.fixture
def embed(node, picture, face_analysis):
    def run(**changes):
        inputs = dict(
            image=picture, face_analysis=face_analysis, which_face="largest", when_no_face="error", box_ratio=1.2
        )
        return node("Hallo3FaceEmbed", **{**inputs, **changes})

    return run


@pytest.fixture
def refer(node, loaded):
    """Run Hallo3Reference on a small picture of noise, all of it seen."""

    def run(**changes):
        draw = torch.Generator().manual_seed(7)
        inputs = dict(image=torch.rand(1, 60, 80, 3, generator=draw), mask=torch.ones(1, 60, 80), vae=loaded.vae)
        inputs |= dict(reference_net=loaded.reference_net, width=WIDTH, height=HEIGHT, framing="auto")
        return node("Hallo3Reference", **{**inputs, **changes})

    return run


def test_size_0_is_the_size_that_the_model_was_trained_on(pack, refer, loaded, caplog):
    grid = loaded.reference_net.module.config.grid
    trained = (16 * grid.rows, 16 * grid.columns)
    reference, framed = refer(width=0, height=0)
    assert reference.framing.size == trained and framed.shape == (1, *trained, 3)
    assert "was trained on" not in caplog.text
    asked, _ = refer(width=trained[1], height=trained[0])
    assert torch.equal(reference.pixels, asked.pixels)


def test_one_side_of_0_follows_the_other_in_the_trained_proportions(pack):
    size_of = pack("nodes.reference").size_of
    assert size_of(0, 0, (480, 720)) == (480, 720)
    assert size_of(320, 0, (480, 720)) == size_of(0, 480, (480, 720)) == (320, 480)
    assert size_of(480, 480, (480, 720)) == (480, 480)
    for side in range(16, 2049, 16):
        height, width = size_of(side, 0, (480, 720))
        assert height == side and width % 16 == 0 and abs(width - 1.5 * side) <= 8


# What the nodes give --------------------------------------------------------------------------------------------


def test_sound_is_encoded_as_by_the_core(core, encoded, loaded):
    features, frames, clips = encoded
    assert {parameter.dtype for parameter in loaded.wav2vec.module.parameters()} == {torch.float32}
    wav2vec = core.audio.load_wav2vec(core.release.wav2vec_folder)
    expected = core.audio.encode_audio(core.recording.read_recording(ASSETS / "speech.flac"), wav2vec)
    assert (frames, clips) == (expected.frames, expected.clips) == (90, 2)
    torch.testing.assert_close(features.hidden, expected.hidden, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 96_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_any_rate_and_number_of_channels_give_the_film_its_length(core, node, loaded, rate, channels):
    sound = {"waveform": torch.randn(1, channels, int(0.5 * rate)) * 0.1, "sample_rate": rate}
    features, frames, clips = node("Hallo3AudioEncode", audio=sound, wav2vec=loaded.wav2vec)
    assert (frames, clips) == (core.clips.film_frames(int(0.5 * rate), rate), 1)
    assert features.recording.waveform.shape[0] == channels and features.recording.rate == rate


def test_the_face_is_the_cores(core, found, picture):
    face, mask, marked = found
    analyser = core.face.load_face_analyser(core.release.face_folder)
    expected, expected_mask = core.face.embed_face(picture[0].movedim(-1, 0), analyser)
    assert torch.equal(face.embedding, expected.embedding) and face.box == expected.box
    assert torch.equal(mask, expected_mask[None])
    assert marked.shape == picture.shape


def test_the_marked_picture_shows_the_mask_and_the_box(found, picture):
    face, mask, marked = found
    line = (marked == torch.tensor((0.2, 0.9, 0.4))).all(-1)[0]
    x0, y0, x1, y1 = (round(side) for side in face.oval)
    rows, columns = line.nonzero().T
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (x0, y0, x1 - 1, y1 - 1)
    seen, hidden = ((mask[0] == value) & ~line for value in (1, 0))
    assert seen.any() and torch.equal(marked[0][seen], picture[0][seen])
    torch.testing.assert_close(marked[0][hidden], picture[0][hidden] / 2)


def test_the_mask_is_the_ovals_box_grown_by_the_ratio(embed):
    for ratio in (1.0, 1.2, 1.5):
        face, mask, _ = embed(box_ratio=ratio)
        x0, y0, x1, y1 = face.oval
        rows, columns = mask[0].nonzero().T
        assert abs((columns.max() - columns.min() + 1) / (x1 - x0) - ratio) < 0.03
        assert abs((rows.max() - rows.min() + 1) / (y1 - y0) - ratio) < 0.03


def test_transparency_lies_over_black_as_on_the_command_line(embed, refer, picture):
    opaque = torch.cat((picture, torch.ones_like(picture[..., :1])), dim=-1)
    assert torch.equal(embed(image=opaque)[0].embedding, embed()[0].embedding)
    see_through = torch.rand(1, 60, 80, 4)
    reference, _ = refer(image=see_through)
    expected, _ = refer(image=see_through[..., :3] * see_through[..., 3:])
    assert torch.equal(reference.pixels, expected.pixels)


def test_a_picture_without_a_face_can_serve_as_a_whole(embed):
    face, mask, _ = embed(image=torch.zeros(1, 64, 80, 3), when_no_face="whole image")
    assert face.count == 0 and not face.embedding.any() and mask.shape == (1, 64, 80) and mask.all()


def test_no_face_is_reported_without_the_command_line_s_words(core, embed, face_analysis):
    with pytest.raises(core.error, match='or set "when no face" to "whole image"') as error:
        embed(image=torch.zeros(1, 64, 80, 3), face_analysis=replace(face_analysis, note=""))
    assert "--" not in str(error.value)


def test_toy_weights_say_what_they_know_and_where_the_release_is_had(pack, core, embed, picture, monkeypatch):
    """On every run, and in place of advice that is no use to someone with a photograph."""
    shown = []
    monkeypatch.setattr(pack("nodes.host.progress"), "show_text", lambda text, node_id: shown.append(text))
    embed()
    with pytest.raises(core.error, match="portrait: no drawn face found") as error:
        embed(image=torch.zeros(1, 64, 80, 3))
    (text,) = shown
    summary, _, advice = text.partition("\n")
    assert summary.startswith("1 face, certainty")
    for message in (advice, str(error.value)):
        assert "These are the toy's weights, which know drawn people only." in message
        assert "hallo3_portrait.jpg" in message and "40 GB" in message
        assert " download " in message and message.rstrip(".`").endswith("release")


def test_real_weights_say_nothing_of_the_toy(pack, embed, face_analysis, monkeypatch):
    shown = []
    monkeypatch.setattr(pack("nodes.host.progress"), "show_text", lambda text, node_id: shown.append(text))
    embed(face_analysis=replace(face_analysis, note=""))
    assert "\n" not in shown[0] and "toy" not in shown[0]


def test_a_mask_by_mediapipe_needs_its_landmark_file(core, embed):
    with pytest.raises(core.error, match="face_landmarker_v2_with_blendshapes.task") as error:
        embed(mask_from="mediapipe")
    assert "set mask_from to detector." in str(error.value)
    with pytest.raises(core.error, match="mask_from is 'guess': choose detector or mediapipe"):
        embed(mask_from="guess")


def two_heads() -> torch.Tensor:
    """A large head on the left, a smaller one on the right: what the toy detector takes for faces."""
    picture = torch.tensor((0.35, 0.5, 0.65)).repeat(1, 320, 480, 1)
    y, x = torch.arange(320).view(-1, 1) + 0.5, torch.arange(480) + 0.5
    for middle, radius in ((130, 70), (370, 45)):
        inside = ((x - middle) / radius) ** 2 + ((y - 160) / (1.3 * radius)) ** 2 <= 1
        picture[0, inside] = torch.tensor((0.88, 0.67, 0.55))
    return picture


def test_one_of_several_faces_is_chosen(pack, embed):
    left, right = (embed(image=two_heads(), which_face=which)[0] for which in ("largest", "1"))
    assert left.box[2] < 240 < right.box[0]
    summary = pack("nodes.face").summary(right)
    assert summary == "2 faces, 0 to 1 from left to right; took 1: which_face takes another"


def test_silence_shows_as_such(pack, node, loaded, caplog):
    silent = {"waveform": torch.zeros(1, 1, 16_000), "sample_rate": 16_000}
    features, *_ = node("Hallo3AudioEncode", audio=silent, wav2vec=loaded.wav2vec)
    assert "silent" in caplog.text
    assert "loudest sample 0%" in pack("nodes.audio").summary(features)


@pytest.mark.parametrize(("size", "framing"), [((60, 80), "auto"), ((64, 64), "auto"), ((60, 80), "pad")])
def test_the_reference_is_the_cores(core, refer, size, framing):
    draw = torch.Generator().manual_seed(1)
    image, mask = torch.rand(1, *size, 3, generator=draw), (torch.rand(1, *size, generator=draw) > 0.5).float()
    reference, shown = refer(image=image, mask=mask, framing=framing)
    network = core.release.network("reference_net", dtype=torch.float32)
    plan = core.image.plan_framing(*size, HEIGHT, WIDTH, framing)
    vae = core.release.vae(dtype=torch.float32)
    expected = core.portrait.prepare_portrait(image.movedim(-1, 1), mask[0], plan, vae, network, with_null=True)
    assert torch.equal(reference.pixels, expected.pixels) and reference.framing == plan
    for found, wanted in ((reference.bank, expected.bank), (reference.null_bank, expected.null_bank)):
        torch.testing.assert_close(list(found), list(wanted), atol=1e-5, rtol=0)
    torch.testing.assert_close(shown.movedim(-1, 1) * 2 - 1, expected.pixels.clamp(-1, 1))


def test_the_size_of_the_video_is_shown_before_the_networks_run(pack, refer, monkeypatch, caplog):
    progress, texts = pack("nodes.host.progress"), []
    monkeypatch.setattr(progress, "show_text", lambda text, node_id: texts.append((text, node_id)))
    monkeypatch.setattr(pack("nodes.reference"), "make_reference", lambda *args: 1 / 0)
    for size, words in (((60, 80), "the video will be 32x16"), ((64, 64), "the video will be 16x16: the portrait is")):
        with pytest.raises(ZeroDivisionError):
            refer(image=torch.rand(1, *size, 3), mask=torch.ones(1, *size), node_id="3")
        text, node = texts[-1]
        assert text.startswith(words) and node == "3"
    assert "32x16: the model was trained on" in caplog.text


# A film by hand -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "film_size"), [((60, 80), (16, 32)), ((64, 64), (16, 16))])
def test_a_film_chained_by_hand_is_the_cores(core, node, loaded, scene, refer, encoded, size, film_size):
    """From portrait and sound through the nodes alone, against the core without a host. Square ones are padded."""
    features, reference = encoded[0], refer(image=torch.rand(1, *size, 3), mask=torch.ones(1, *size))[0]
    shared = dict(model=loaded.model, text=scene.text, vae=loaded.vae, audio=features, face=scene.face)
    scales = dict(audio_cfg=3.5, text_cfg=3.5, reference_cfg=1.0)
    film = motion = None
    for index in range(features.clips):
        chosen = dict(clip_index=index, seed=5, steps=2, sampler="dpmpp-2m", motion=motion)
        latent = node("Hallo3SampleClip", **shared, **scales, reference=reference, **chosen)[0]["samples"]
        frames = loaded.vae.decode(latent)[0]
        motion = node("Hallo3MotionFrames", frames=frames, count=2)[0]
        film = node("Hallo3AppendClip", clip=frames, audio=features, clip_index=index, film=film, reference=reference)[
            0
        ]

    network = core.release.network
    denoiser, project, tokens = (
        network(name, dtype=torch.float32) for name in ("denoiser", "audio_projector", "face_projector")
    )
    windows = [core.audio.clip_audio(features, clip)[None] for clip in range(features.clips)]
    run = core.conditions.prepare_run(
        denoiser,
        reference,
        core.options.Settings(steps=2, sampler="dpmpp-2m"),
        text=scene.text[0][0],
        face_tokens=tokens(scene.face.embedding[None]),
        null_audio_tokens=project(torch.zeros_like(windows[0])),
    )
    clips = film_clips(
        denoiser,
        core.release.vae(dtype=torch.float32),
        run,
        reference,
        features.frames,
        lambda clip: project(windows[clip]),
        lambda clip: core.noise.SeededNoise(5, clip),
    )
    expected = core.image.crop_to(torch.cat(list(clips)), reference.framing)
    assert tuple(film.shape) == (90, *film_size, 3)
    torch.testing.assert_close(film.movedim(-1, 1), expected, atol=2e-5, rtol=0)


def test_clips_append_to_the_whole_film_once(node, encoded):
    """A chain of numbered frames: each film frame once, in order, as long as the sound."""
    features, film = encoded[0], None
    for index in range(features.clips):
        numbers = (torch.arange(49) + 47 * index - 2).clamp(min=0) / 255
        clip = numbers.view(-1, 1, 1, 1).expand(-1, HEIGHT, WIDTH, 3)
        film = node("Hallo3AppendClip", clip=clip, audio=features, clip_index=index, film=film)[0]
    assert (film[:, 0, 0, 0] * 255).round().tolist() == list(range(90))


@pytest.mark.parametrize("count", [1, 2])
def test_motion_frames_are_the_last_ones(node, count):
    frames = torch.rand(49, HEIGHT, WIDTH, 3)
    motion = node("Hallo3MotionFrames", frames=frames, count=count)[0]
    assert torch.equal(motion.frames, frames[-count:].movedim(-1, 1))


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_colours_are_held_as_by_the_core(core, node, scene, strength):
    frames = torch.rand(49, HEIGHT, WIDTH, 3)
    held = node("Hallo3ColorMatch", frames=frames, reference=scene.reference, strength=strength)[0]
    portrait = scene.reference
    expected = core.color.hold_colour(frames.movedim(-1, 1), portrait.pixels, portrait.framing, strength)
    assert torch.equal(held, expected.movedim(1, -1))
    assert torch.equal(held, frames) == (strength == 0)


def test_no_node_changes_its_inputs(node, embed, refer, scene, encoded, picture, sound):
    """The host keeps results and hands them to several nodes."""
    clip, film, mask = torch.rand(49, HEIGHT, WIDTH, 3), torch.rand(47, HEIGHT, WIDTH, 3), torch.ones(1, 60, 80)
    inputs = (picture, sound["waveform"], clip, film, mask, scene.reference.pixels)
    before = [tensor.clone() for tensor in inputs]
    embed()
    refer(mask=mask)
    node("Hallo3MotionFrames", frames=clip, count=2)
    node("Hallo3ColorMatch", frames=clip, reference=scene.reference, strength=1.0)
    node("Hallo3AppendClip", clip=clip, audio=encoded[0], clip_index=1, film=film)
    assert all(torch.equal(tensor, kept) for tensor, kept in zip(inputs, before, strict=True))


# Wrong inputs ---------------------------------------------------------------------------------------------------

NAN, RATE = math.nan, 16_000


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (None, "there is no sound, as in a video without a sound track. Connect Load Audio"),
        (dict(waveform=torch.zeros(1, 1, 0), sample_rate=RATE), "audio: no sound in it"),
        (dict(waveform=torch.zeros(2, 1, 99), sample_rate=RATE), r"shape \[2, 1, 99\], .* Give one recording"),
        (dict(waveform=torch.full((1, 1, 99), NAN), sample_rate=RATE), "sample 0 .* is nan"),
        (dict(waveform=torch.full((1, 1, 99), 3e4), sample_rate=RATE), "samples reach 30000"),
        (dict(waveform=torch.zeros(1, 1, 99), sample_rate=0), "0 samples a second"),
    ],
)
def test_an_unusable_recording_is_refused(core, node, loaded, audio, words):
    with pytest.raises(core.error, match=words):
        node("Hallo3AudioEncode", audio=audio, wav2vec=loaded.wav2vec)


SAID = torch.randn(1, 2, 4_000, generator=torch.Generator().manual_seed(1)) * 0.1
OTHER_FORMS = {
    "numpy": dict(waveform=SAID.numpy(), sample_rate=RATE),
    "lists": dict(waveform=SAID.tolist(), sample_rate=RATE),
    "a rate of 16000.0": dict(waveform=SAID, sample_rate=16_000.0),
    "a rate in a tensor": dict(waveform=SAID, sample_rate=torch.tensor(RATE)),
    "a rate in words": dict(waveform=SAID, sample_rate="16000"),
    "samples before channels": dict(waveform=SAID.transpose(1, 2), sample_rate=RATE),
    "half precision": dict(waveform=SAID.half(), sample_rate=RATE),
    "16-bit numbers": dict(waveform=(SAID * 32768).round().short(), sample_rate=RATE),
    "a list of one": [dict(waveform=SAID, sample_rate=RATE)],
}


@pytest.mark.parametrize("name", OTHER_FORMS)
def test_a_recording_in_another_form_is_accepted(pack, core, name):
    found = core.recording.check_recording(pack("nodes.audio").recording_of(OTHER_FORMS[name]))
    assert found.rate == RATE and type(found.rate) is int
    torch.testing.assert_close(found.waveform, SAID[0], atol=1e-3, rtol=0)  # half precision rounds


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (dict(waveform=SAID), "it has no sample_rate. Connect Load Audio"),
        (dict(waveform=SAID, sample_rate=None), "it has no sample_rate"),
        (dict(sample_rate=RATE), "no waveform in it"),
        (dict(waveform=None, sample_rate=RATE), "no waveform in it"),
        ({}, "no waveform in it"),
        (dict(waveform=SAID, sample_rate="fast"), "sample rate 'fast', expected a whole number"),
        (dict(waveform=SAID, sample_rate=NAN), "sample rate 'nan', expected a whole number"),
        (dict(waveform=SAID, sample_rate=44_100.5), "sample rate '44100.5', expected a whole number"),
        (dict(waveform="voice.wav", sample_rate=RATE), "its waveform is a str that holds no samples"),
        (dict(waveform=[[[1.0], [1.0, 2.0]]], sample_rate=RATE), "its waveform is a list that holds no samples"),
        ("voice.wav", "no waveform in it .found str., expected AUDIO"),
        ([dict(waveform=SAID, sample_rate=RATE)] * 2, "a list of 2 recordings, expected one"),
    ],
)
def test_any_wrong_audio_is_reported_in_one_line(core, node, loaded, audio, words):
    with pytest.raises(core.error, match=words):
        node("Hallo3AudioEncode", audio=audio, wav2vec=loaded.wav2vec)


PICTURES = [
    (torch.zeros(2, 64, 64, 3), "a batch of 2 pictures, expected 1. Pick one with ImageFromBatch"),
    (torch.zeros(1, 8, 8, 3), "8x8 is too small"),
    (torch.zeros(1, 16, 400, 3), "400x16 is too long"),
    (torch.zeros(1, 1, 1, 3).expand(1, 9000, 9000, 3), r"absurdly large \(9000x9000\)"),
    (torch.zeros(1, 64, 64, 1), r"shape \[1, 64, 64, 1\], expected \[frames, height, width, 3\]"),
    (torch.zeros(64, 64, 3), r"shape \[64, 64, 3\]"),
    (torch.full((1, 64, 64, 3), NAN), "values from nan to nan"),
    (torch.full((1, 64, 64, 3), 255.0), "values from 255 to 255, expected 0 to 1"),
]


@pytest.mark.parametrize(("image", "words"), PICTURES)
def test_an_unusable_portrait_is_refused(core, embed, refer, image, words):
    for ask in (embed, refer):
        with pytest.raises(core.error, match=words):
            ask(image=image)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(image=torch.zeros(1, 64, 64, 3)), "no drawn face found. These are the toy's weights"),
        (dict(image=two_heads(), which_face="2"), "no face 2: it has 2, counted from 0"),
        (dict(which_face="tallest"), "which_face is 'tallest': choose largest, leftmost"),
        (dict(when_no_face="ignore"), "when_no_face is 'ignore': choose error or whole image"),
        (dict(box_ratio=NAN), "box_ratio is nan: choose a number from 1 to 4"),
        (dict(box_ratio=0.5), "box_ratio is 0.5"),
    ],
)
def test_an_unusable_face_is_refused(core, embed, changes, words):
    with pytest.raises(core.error, match=words):
        embed(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(mask=torch.zeros(1, 64, 64)), "64x64 zeros.*connect the mask of Hallo3 Face Embed"),
        (dict(mask=torch.ones(1, 64, 64)), "face mask: 64x64, but the portrait is 80x60"),
        (dict(mask=torch.ones(2, 60, 80)), r"face mask: shape \[2, 60, 80\]"),
        (dict(mask=torch.full((1, 60, 80), NAN)), "values outside 0..1"),
        (dict(width=100), "width 100: video frames are multiples of 16 pixels. Nearest: 96"),
        (dict(height=8), "height 8"),
        (dict(width=4096), "width is 4096: choose a whole number from 0 to 2048"),
        (dict(framing="stretch"), "framing is 'stretch': choose auto, crop or pad"),
        (dict(vae=SimpleNamespace(first_stage_model=None)), "expected CogVideoX's"),
    ],
)
def test_inputs_that_make_no_reference_are_refused(core, refer, changes, words):
    with pytest.raises(core.error, match=words):
        refer(**changes)


@pytest.mark.parametrize(
    ("key", "changes", "words"),
    [
        ("Hallo3MotionFrames", dict(frames=torch.zeros(1, 16, 32, 3)), "only 1, but count is 2"),
        ("Hallo3MotionFrames", dict(count=3), "count is 3: the model takes 1 or 2"),
        ("Hallo3MotionFrames", dict(frames=torch.full((49, 16, 32, 3), NAN)), "NaN comes from a VAE in fp16"),
        ("Hallo3ColorMatch", dict(strength=NAN), "strength is nan: choose a number from 0 to 1"),
        ("Hallo3ColorMatch", dict(frames=torch.zeros(49, 32, 64, 3)), "the clip is 64x32, its portrait 32x16"),
        ("Hallo3AppendClip", dict(clip_index=2), "clip 2 does not exist: the recording has 2 clips"),
        ("Hallo3AppendClip", dict(clip_index=-1), "clip_index is -1: choose a whole number from 0"),
        ("Hallo3AppendClip", dict(clip=torch.zeros(47, 16, 32, 3)), "47 frames, expected 49"),
        ("Hallo3AppendClip", dict(clip_index=0), "film: 47 frames, but clip 0 begins at frame 0. Leave film open"),
        ("Hallo3AppendClip", dict(film=None), "film: 0 frames, but clip 1 begins at frame 47"),
        ("Hallo3AppendClip", dict(clip=torch.zeros(49, 32, 64, 3)), "64x32, but the video so far is 32x16"),
    ],
)
def test_inputs_that_cannot_be_chained_are_refused(core, node, scene, encoded, key, changes, words):
    whole = torch.zeros(49, HEIGHT, WIDTH, 3)
    inputs = {
        "Hallo3MotionFrames": dict(frames=whole, count=2),
        "Hallo3ColorMatch": dict(frames=whole, reference=scene.reference, strength=1.0),
        "Hallo3AppendClip": dict(clip=whole, audio=encoded[0], clip_index=1, film=whole[:47]),
    }
    with pytest.raises(core.error, match=words):
        node(key, **{**inputs[key], **changes})


def test_a_clip_of_another_reference_is_refused(core, node, scene, encoded):
    other = replace(scene.reference, framing=core.image.plan_framing(64, 64, 32, 32))
    with pytest.raises(core.error, match="clip: 32x16, but its reference is 32x32"):
        node(
            "Hallo3AppendClip",
            clip=torch.zeros(49, HEIGHT, WIDTH, 3),
            audio=encoded[0],
            clip_index=0,
            film=None,
            reference=other,
        )


# The forms ------------------------------------------------------------------------------------------------------

FORMS = {
    "Hallo3AudioEncode": ("audio wav2vec", "", "HALLO3_AUDIO INT INT"),
    "Hallo3FaceEmbed": (
        "image face_analysis which_face when_no_face box_ratio",
        "mask_from",
        "HALLO3_FACE MASK IMAGE",
    ),
    "Hallo3Reference": ("image mask vae reference_net width height framing", "", "HALLO3_REFERENCE IMAGE"),
    "Hallo3MotionFrames": ("frames count", "clip_index", "HALLO3_MOTION"),
    "Hallo3ColorMatch": ("frames reference strength", "", "IMAGE"),
    "Hallo3AppendClip": ("clip audio clip_index", "film reference model seam_fade", "IMAGE AUDIO"),
}


@pytest.mark.parametrize("key", FORMS)
def test_names_and_their_order_are_those_that_workflows_depend_on(pack, key):
    made = pack().NODE_CLASS_MAPPINGS[key]
    inputs = made.INPUT_TYPES()
    form = (list(inputs["required"]), list(inputs.get("optional", {})), list(made.RETURN_TYPES))
    assert form == tuple(names.split() for names in FORMS[key])
    assert made.SEARCH_ALIASES


def test_widgets_start_with_values_that_they_allow(pack):
    for key in FORMS:
        for kind, options in pack().NODE_CLASS_MAPPINGS[key].INPUT_TYPES()["required"].values():
            if isinstance(kind, list):
                assert options["default"] in kind, key
            elif kind in ("INT", "FLOAT"):
                assert options["min"] <= options["default"] <= options["max"], key
