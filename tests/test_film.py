"""Film files hold exactly what was written, at the right time and in the right colours."""

from __future__ import annotations

import colorsys
import itertools
import logging
import math
import os
import struct
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hallo3_core.errors import InputError
from hallo3_core.film.output import identity
from hallo3_core.film.writer import (
    FALLBACK_RATE,
    NOTICE,
    SOUND_RATES,
    FilmWriter,
    check_output,
    from_planes,
    read_film,
    to_planes,
)
from hallo3_core.inputs.recording import Recording, read_recording
from tests.allocated import allocated, is_counted

H, W = 32, 48


def picture(colour, frames: int = 1) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.uint8).expand(frames, H, W, 3)


def tone(seconds: float, rate: int = 44100, channels: int = 1) -> Recording:
    wave = 0.5 * torch.sin(2 * math.pi * 440 * torch.arange(round(seconds * rate)) / rate)
    return Recording(wave.repeat(channels, 1), rate)


def write(path, frames, *args, **kwargs):
    with FilmWriter(path, H, W, *args, **kwargs) as film:
        film.write(frames)
    return path


@given(parts=st.lists(st.integers(1, 40), min_size=1, max_size=4), sound=st.floats(0.01, 4))
@settings(max_examples=15, deadline=None)
def test_every_frame_is_there_and_pictures_and_sound_end_together(parts, sound, tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "a.mp4"
    with FilmWriter(path, H, W, tone(sound)) as film:
        for part in parts:
            film.write(picture((200, 100, 50), part))
    frames, rate, found = read_film(path)
    assert (len(frames), rate) == (sum(parts), 25)
    with av.open(str(path)) as container:
        for stream in container.streams:
            assert stream.start_time == 0
            assert abs(stream.duration * stream.time_base - sum(parts) / 25) <= 1 / 44100
    spoken = round(44100 * min(sound, sum(parts) / 25))
    after = found.waveform[0, spoken + 2048 : round(44100 * sum(parts) / 25)]
    assert after.abs().sum() == 0 or after.abs().max() < 0.01  # silence after the end of the audio


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (22050, 1), (44100, 2), (48000, 2), (30000, 2), (8000, 6)])
def test_a_clap_is_seen_and_heard_at_the_same_time(tmp_path, rate, channels):
    waveform = torch.zeros(channels, rate * 3)
    frames = picture((0, 0, 0), 60).clone()
    for second in (0.4, 1.6):
        frames[round(second * 25)] = 255
        waveform[:, round(second * rate) : round((second + 0.01) * rate)] = 0.9
    frames, _, sound = read_film(write(tmp_path / "a.mp4", frames, Recording(waveform, rate)))
    assert sound.rate == (rate if rate in SOUND_RATES else FALLBACK_RATE)
    assert sound.waveform.shape[0] == min(channels, 2)
    assert (frames.float().mean((1, 2, 3)) > 128).nonzero()[:, 0].tolist() == [10, 40]
    loud = (sound.waveform[0].abs() > 0.3).nonzero()[:, 0] / sound.rate
    assert abs(loud[0] - 0.4) < 0.005 and abs(loud[-1] - 1.61) < 0.005


def test_pictures_and_sound_are_in_time_after_a_minute(tmp_path):
    """With a sample rate not divisible by 25, so that rounding shows, the clap of frame 1490 is heard within it."""
    waveform = torch.zeros(1, 60 * 22050)
    waveform[:, round(1490 / 25 * 22050) :][:, :200] = 0.9
    with FilmWriter(tmp_path / "a.mp4", 16, 16, Recording(waveform, 22050)) as film:
        for _ in range(15):
            film.write(torch.zeros(100, 16, 16, 3, dtype=torch.uint8))
    frames, _, sound = read_film(tmp_path / "a.mp4")
    loud = (sound.waveform[0].abs() > 0.3).nonzero()[0].item() / sound.rate
    assert len(frames) == 1500 and abs(loud * 25 - 1490) < 0.2


def test_frames_are_in_order(tmp_path):
    levels = torch.arange(0, 250, 5, dtype=torch.uint8)
    frames, _, sound = read_film(write(tmp_path / "a.mp4", levels[:, None, None, None].repeat(1, H, W, 3)))
    assert sound is None
    assert (frames.float().mean((1, 2, 3)) - levels).abs().max() <= 3


@pytest.mark.parametrize(
    "colour",
    [(0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 0), (0, 255, 0), (0, 0, 255), (224, 172, 105), (30, 60, 90)],
)
def test_colours_come_back(tmp_path, colour):
    path = write(tmp_path / "a.mp4", picture(colour, 5))
    frames, _, _ = read_film(path)
    assert (frames.float().mean((0, 1, 2)) - torch.tensor(colour)).abs().max() <= 2

    red, green, blue = (level / 255 for level in colour)  # and by the standard's definition
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    wanted = (16 + 219 * luma, 128 + 224 * (blue - luma) / 1.8556, 128 + 224 * (red - luma) / 1.5748)
    with av.open(str(path)) as container:
        planes = next(container.decode(video=0)).to_ndarray().flatten()
    for found, level in zip(
        (planes[: H * W], planes[H * W : H * W * 5 // 4], planes[H * W * 5 // 4 :]), wanted, strict=True
    ):
        assert abs(found.mean() - level) < 1


@given(seed=st.integers(0, 1000), height=st.integers(1, 12), width=st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_planes_keep_the_colours_of_two_rows(seed, height, width):
    rows = torch.randint(0, 256, (height, 1, 3), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    frame = rows.repeat_interleave(2, 0).repeat_interleave(2 * width, 1)
    planes = to_planes(frame)
    assert planes.shape == (3 * height, 2 * width)
    assert (from_planes(planes).int() - frame.int()).abs().max() <= 2


def test_the_same_frames_are_the_same_film(tmp_path):
    """x264's fast paths are not deterministic: with them, about half of these files differ."""
    noise = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (6, 3, 12, 18), generator=noise).float()
    frames = torch.nn.functional.interpolate(blocks, size=(96, 144), mode="bilinear").movedim(1, -1)
    frames = frames.repeat_interleave(20, 0)
    frames = (frames + 6 * torch.randn(frames.shape, generator=noise)).clamp(0, 255).to(torch.uint8)
    films = set()
    for number in range(8):
        with FilmWriter(tmp_path / f"{number}.mp4", 96, 144) as film:
            film.write(frames)
        films.add((tmp_path / f"{number}.mp4").read_bytes())
    assert len(films) == 1


def test_it_is_what_players_expect(tmp_path):
    path = write(tmp_path / "a.mp4", picture((9, 9, 9), 5), tone(1, 48000, 2))
    content = path.read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")
    with av.open(str(path)) as container:
        video, sound = container.streams.video[0].codec_context, container.streams.audio[0].codec_context
        assert (video.name, video.pix_fmt, video.width, video.height) == ("h264", "yuv420p", W, H)
        assert (video.colorspace, video.color_primaries, video.color_trc, video.color_range) == (1, 1, 1, 1)
        assert (sound.name, sound.sample_rate, sound.layout.name) == ("aac", 48000, "stereo")
        assert container.metadata["comment"] == NOTICE


def test_metadata_is_added_to_the_notice(tmp_path):
    path = write(tmp_path / "a.mp4", picture((9, 9, 9)), metadata={"comment": "first try", "hallo3_seed": "42"})
    with av.open(str(path)) as container:
        assert container.metadata["comment"] == f"{NOTICE}. first try"
        assert container.metadata["hallo3_seed"] == "42"


def test_the_notice_goes_only_by_name(tmp_path):
    for metadata, left in (({}, None), ({"comment": "mine"}, "mine")):
        path = write(tmp_path / "a.mp4", picture((9, 9, 9)), metadata=metadata, ai_notice=False)
        with av.open(str(path)) as container:
            assert container.metadata.get("comment") == left


def test_further_channels_are_mixed_into_both_sides_without_clipping(tmp_path):
    waveform = torch.zeros(6, 48000)
    waveform[2] = tone(1, 48000).waveform[0]
    _, _, sound = read_film(write(tmp_path / "a.mp4", picture((0, 0, 0), 25), Recording(waveform, 48000)))
    steady = sound.waveform[:, 8000:40000]
    assert torch.allclose(steady[0], steady[1], atol=1e-3) and steady.abs().max() > 0.05
    full_scale = Recording(2 * tone(1, 48000, 6).waveform, 48000)
    _, _, sound = read_film(write(tmp_path / "b.mp4", picture((0, 0, 0), 25), full_scale))
    assert 0.95 < sound.waveform[:, 8000:40000].abs().max() < 1.05


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("frames", [0, 5])
def test_a_failure_leaves_the_folder_as_it_was(tmp_path, exists, frames):
    path = tmp_path / "a.mp4"
    if exists:
        path.write_bytes(b"the old film")
    with pytest.raises(KeyboardInterrupt), FilmWriter(path, H, W, tone(1)) as film:
        if frames:
            film.write(picture((1, 2, 3), frames))
        assert [file.name for file in tmp_path.iterdir() if file != path] == [film._part.name] * bool(frames)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [path] * exists
    assert not exists or path.read_bytes() == b"the old film"


def test_a_whole_film_replaces_the_old_one_alone(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"the old film")
    film = FilmWriter(path, H, W)
    film.write(picture((1, 2, 3), 3))
    assert path.read_bytes() == b"the old film"
    film.close()
    film.close()
    assert list(tmp_path.iterdir()) == [path] and len(read_film(path)[0]) == 3
    with pytest.raises(ValueError, match="closed"):
        film.write(picture((1, 2, 3)))


def test_a_film_that_cannot_take_its_name_is_kept(tmp_path):
    path = tmp_path / "a.mp4"
    with pytest.raises(InputError, match="could not be replaced") as error, FilmWriter(path, H, W) as film:
        film.write(picture((1, 2, 3), 3))
        path.mkdir()
    kept = next(file for file in tmp_path.iterdir() if file != path)
    assert str(kept) in str(error.value) and len(read_film(kept)[0]) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="no such names there")
@pytest.mark.parametrize("name", ["scene 1: hello.mp4", "pipe:1.mp4", "film é %d.mp4", "x" * 240 + ".mp4"])
def test_a_name_is_only_a_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert len(read_film(write(name, picture((1, 2, 3), 2), tone(1)))[0]) == 2
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of this kind are POSIX")
def test_a_full_disk_is_reported_in_one_line(tmp_path):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = torch.randint(0, 256, (40, H, W, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(InputError, match="could not be written") as error:
            write(tmp_path / "a.mp4", noise, tone(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_where_no_film_can_go_is_said_before_any_work(tmp_path):
    (tmp_path / "dir.mp4").mkdir()
    (tmp_path / "file").touch()
    assert check_output(str(tmp_path / "A.MP4")) == tmp_path / "A.MP4"
    for path, reason in (
        (tmp_path / "a.avi", "written as .mp4, found .avi"),
        (tmp_path / "a", "found no extension"),
        (tmp_path / "dir.mp4", "is a folder"),
        (tmp_path / "gone" / "a.mp4", "there is no folder"),
        (tmp_path / "file" / "a.mp4", "there is no folder"),
    ):
        for attempt in (check_output, lambda path: FilmWriter(path, H, W)):
            with pytest.raises(InputError, match=reason) as error:
                attempt(path)
            assert str(path) in str(error.value)
    assert {file.name for file in tmp_path.iterdir()} == {"dir.mp4", "file"}


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write to")
def test_a_folder_that_refuses_files_is_reported():
    with pytest.raises(InputError, match="nothing can be written to /proc"):
        check_output("/proc/a.mp4")


def test_wrong_sizes_are_refused(tmp_path):
    for height, width in ((H + 1, W), (H, W + 1), (0, W), (H, 0)):
        with pytest.raises(InputError, match="expected an even number"):
            FilmWriter(tmp_path / "a.mp4", height, width)
    with FilmWriter(tmp_path / "a.mp4", H, W) as film:
        for frames in (picture((1, 2, 3))[0], picture((1, 2, 3)).float(), picture((1, 2, 3))[:, :, 2:]):
            with pytest.raises(ValueError, match=f"expected t {H} {W} 3, uint8"):
                film.write(frames)
        film.write(picture((1, 2, 3)))
    with pytest.raises(ValueError, match="at least 1 frame"), FilmWriter(tmp_path / "b.mp4", H, W):
        pass
    with pytest.raises(InputError, match="samples reach"):
        FilmWriter(tmp_path / "c.mp4", H, W, Recording(torch.full((1, 9), 99.0), 8000))
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_a_file_that_is_not_a_film_is_named(tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    (tmp_path / "a.mp4").write_text("not a film")
    for name, reason in (("a.mp4", "not readable"), ("gone.mp4", "no such video")):
        with pytest.raises(InputError, match=reason):
            read_film(tmp_path / name)
    with av.open(str(tmp_path / "c.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 16
        for packet in [*stream.encode(av.VideoFrame(16, 16, "yuv420p")), *stream.encode(None)]:
            container.mux(packet)
    with pytest.raises(InputError, match="expected pictures in yuv420p, BT.709"):
        read_film(tmp_path / "c.mp4")
    assert read_recording(write(tmp_path / "b.mp4", picture((0, 0, 0), 50), tone(2))).rate == 44100


@pytest.mark.skipif(not is_counted(), reason="memory is counted as glibc counts it")
def test_memory_does_not_grow_with_the_film(tmp_path):
    sound = Recording(torch.rand(2, 80 * 48000) - 0.5, 48000)
    frame, most = torch.zeros(1, 64, 64, 3, dtype=torch.uint8), {}
    for frames in (100, 1100):
        before, counts = allocated(), []
        with FilmWriter(tmp_path / f"{frames}.mp4", 64, 64, sound) as film:
            for n in range(frames):
                film.write(frame + n % 256)
                counts.append(allocated() - before)
        most[frames] = max(counts)
    assert most[1100] - most[100] < 2 << 20  # bytes; the frames would be 12 MB, the sound beside them 15 MB


@pytest.mark.parametrize("name", ["Talk.mp4", "talk.mp4", "TALK.MP4"])
def test_a_name_that_is_not_there_yet_is_known_by_folder_and_letters(tmp_path, name):
    """On case-insensitive disks, names that differ in case are the same file; a folder is the same by any path."""
    (tmp_path / "link").symlink_to(tmp_path)
    assert identity(tmp_path / "link" / name) == identity(tmp_path / "talk.mp4")
    (tmp_path / name).write_bytes(b"")
    os.link(tmp_path / name, tmp_path / "other")
    assert identity(tmp_path / name) == identity(tmp_path / "other") != identity(tmp_path / "third")


def hue_ramp(height: int = 32, width: int = 256) -> torch.Tensor:
    hues = [colorsys.hsv_to_rgb(column / width, 0.8, 0.8) for column in range(width)]
    return (255 * torch.tensor(hues)).round().to(torch.uint8).expand(height, width, 3)


def as_a_player_reads(planes: torch.Tensor, offset: float) -> torch.Tensor:
    """RGB ``h w 3`` of ``3h/2 w``, chroma interpolated from samples `offset` pixels right of every second column."""
    width = planes.shape[1]
    height = planes.shape[0] * 2 // 3
    luma = (planes[:height].double().numpy() - 16) / 219
    chroma = (planes[height:].reshape(2, height // 2, width // 2).double().numpy() - 128) / 224
    columns = np.arange(width // 2) * 2 + offset
    blue, red = (np.array([np.interp(np.arange(width), columns, row) for row in plane]) for plane in chroma)
    blue, red = (plane.repeat(2, 0) for plane in (blue, red))
    values = luma + 1.5748 * red, luma - 0.1873 * blue - 0.4681 * red, luma + 1.8556 * blue
    return torch.from_numpy(np.stack(values, -1) * 255).round().clamp(0, 255)


@pytest.mark.parametrize("turned", [False, True])
def test_chroma_stands_where_players_take_it_to_stand(turned):
    """The default chroma location of H.264 is over the left of two pixels."""
    frame = hue_ramp().flip(1) if turned else hue_ramp()
    planes = to_planes(frame)
    left, centre = ((as_a_player_reads(planes, at) - frame).abs().mean().item() for at in (0.0, 0.5))
    assert left < 0.6 and left < centre / 2
    assert (from_planes(planes).int() - frame.int()).abs().float().mean() < 0.6


def test_a_film_does_not_say_otherwise_where_its_chroma_stands(tmp_path):
    path = write(tmp_path / "a.mp4", picture((200, 30, 30)))
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            assert getattr(frame, "chroma_location", 0) in (0, 1)  # unspecified means left


def test_a_player_finds_a_keyframe_every_two_seconds(tmp_path):
    path = write(tmp_path / "a.mp4", picture((90, 120, 60), 260))
    with av.open(str(path)) as container:
        found = [
            packet.pts * packet.time_base for packet in container.demux(video=0) if packet.is_keyframe and packet.size
        ]
    gaps = [float(b - a) for a, b in itertools.pairwise([*found, 260 / 25])]
    assert max(gaps) <= 2 and len(found) >= 6


def boxes(content: bytes, *path: bytes) -> bytes:
    """The content of an mp4 box, found by the types of its enclosing boxes."""
    while content:
        size, kind = struct.unpack(">I4s", content[:8])
        if kind == path[0]:
            inside = content[8 + 4 * (kind == b"meta") : size]
            return boxes(inside, *path[1:]) if path[1:] else inside
        content = content[size:]
    return b""


@pytest.mark.parametrize(
    "metadata", [{}, {"title": "Grüße"}, {"seed": "42"}, {"comment": "mine", "take_2": "日本", "x": ""}]
)
def test_common_readers_see_title_and_notice_whatever_else_is_said(tmp_path, metadata):
    path = write(tmp_path / "a.mp4", picture((9, 9, 9)), metadata=metadata)
    apple = path.read_bytes()
    notice = ". ".join(filter(None, (NOTICE, metadata.get("comment"))))
    for kind, text in ((b"\xa9cmt", notice), (b"\xa9nam", metadata.get("title", ""))):
        assert boxes(apple, b"moov", b"udta", b"meta", b"ilst", kind, b"data")[8:].decode() == text
    with av.open(str(path)) as container:
        found = dict(container.metadata)
    assert {name: found.get(name, "") for name in metadata} == {
        **metadata,
        **({"comment": notice} if "comment" in metadata else {}),
    }
    frames, rate, _ = read_film(path)
    assert (len(frames), rate) == (1, 25)
