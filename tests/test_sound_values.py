"""Audio in unusual layouts and types is read correctly; ambiguous input gets a one-line error."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hallo3_core.errors import InputError
from hallo3_core.inputs.recording import check_recording
from hallo3_core.inputs.sound_values import recording_from

RATE = 16_000
MONO = (0.5 * torch.sin(2 * math.pi * 300 * torch.arange(4000) / RATE))[None]
STEREO = torch.cat((MONO, MONO.flip(1)))

FORMS = {
    "as it should be": lambda w: {"waveform": w[None], "sample_rate": RATE},
    "no batch": lambda w: {"waveform": w, "sample_rate": RATE},
    "numpy": lambda w: {"waveform": w[None].numpy(), "sample_rate": RATE},
    "numpy in float64": lambda w: {"waveform": w[None].double().numpy(), "sample_rate": RATE},
    "lists": lambda w: {"waveform": w[None].tolist(), "sample_rate": RATE},
    "a list of tensors": lambda w: {"waveform": list(w), "sample_rate": RATE},
    "rate as float": lambda w: {"waveform": w[None], "sample_rate": 16000.0},
    "rate of numpy": lambda w: {"waveform": w[None], "sample_rate": np.int64(RATE)},
    "rate as tensor": lambda w: {"waveform": w[None], "sample_rate": torch.tensor([RATE])},
    "rate as text": lambda w: {"waveform": w[None], "sample_rate": "16000"},
    "exchanged": lambda w: {"waveform": w.T[None], "sample_rate": RATE},
    "exchanged, no batch": lambda w: {"waveform": w.T, "sample_rate": RATE},
    "with a gradient": lambda w: {"waveform": w[None].clone().requires_grad_(), "sample_rate": RATE},
    "not contiguous": lambda w: {"waveform": w.T.contiguous().T[None], "sample_rate": RATE},
    "names of datasets": lambda w: {"array": w.numpy(), "sampling_rate": RATE},
    "a pair": lambda w: (w, RATE),
    "a pair, rate first": lambda w: (RATE, w.numpy()),
    "a list of one": lambda w: [{"waveform": w[None], "sample_rate": RATE}],
    "an object": lambda w: SimpleNamespace(waveform=w[None], sample_rate=RATE),
}
COARSE = {
    "float16": lambda w: {"waveform": w[None].half(), "sample_rate": RATE},
    "16 bits": lambda w: {"waveform": (w[None] * 32768).round().to(torch.int16), "sample_rate": RATE},
    "32 bits": lambda w: {"waveform": (w[None].double() * 2**31).round().to(torch.int32), "sample_rate": RATE},
    "8 bits": lambda w: {"waveform": (w[None] * 128 + 128).round().to(torch.uint8), "sample_rate": RATE},
}


@pytest.mark.parametrize("waveform", [MONO, STEREO], ids=["mono", "stereo"])
@pytest.mark.parametrize("form", [*FORMS, *COARSE])
def test_what_is_plainly_meant_is_taken(form, waveform):
    found = check_recording(recording_from((FORMS | COARSE)[form](waveform)))
    within = {"8 bits": 1 / 128, "float16": 1e-3, "16 bits": 1 / 32768}.get(form, 1e-7)
    torch.testing.assert_close(found.waveform, waveform, atol=within, rtol=0)
    assert (found.rate, found.name, type(found.rate)) == (RATE, "audio", int)


def test_one_channel_without_any_other_dimension():
    assert recording_from({"waveform": MONO[0], "sample_rate": RATE}).waveform.shape == (1, 4000)


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (None, "there is no sound"),
        ([], "no waveform"),
        ({}, "no waveform"),
        ("voice.wav", "no waveform"),
        (MONO, "no waveform"),
        ({"waveform": None, "sample_rate": RATE}, "no waveform"),
        ({"waveform": MONO}, "it has no sample_rate"),
        ({"waveform": MONO, "sample_rate": None}, "it has no sample_rate"),
        ({"waveform": MONO, "sample_rate": 44100.5}, "sample rate '44100.5'"),
        ({"waveform": MONO, "sample_rate": math.nan}, "sample rate 'nan'"),
        ({"waveform": MONO, "sample_rate": "fast"}, "sample rate 'fast'"),
        ({"waveform": MONO, "sample_rate": True}, "sample rate 'True'"),
        ({"waveform": MONO[None].expand(2, -1, -1), "sample_rate": RATE}, "Give one recording"),
        ({"waveform": MONO[None, None], "sample_rate": RATE}, "Give one recording"),
        ({"waveform": torch.tensor(0.5), "sample_rate": RATE}, "Give one recording"),
        ({"waveform": torch.zeros(1, 300, 300), "sample_rate": RATE}, "300 channels"),
        ({"waveform": [[0.1, 0.2], [0.3]], "sample_rate": RATE}, "no samples"),
        ({"waveform": ["a", "b"], "sample_rate": RATE}, "no samples"),
        ({"waveform": torch.zeros(1, 1, 9, dtype=torch.complex64), "sample_rate": RATE}, "complex64"),
        ({"waveform": torch.zeros(1, 1, 9, dtype=torch.bool), "sample_rate": RATE}, "bool"),
        ([{"waveform": MONO, "sample_rate": RATE}] * 2, "a list of 2 recordings"),
    ],
)
def test_the_rest_gets_one_line(audio, words):
    with pytest.raises(InputError, match=words) as error:
        recording_from(audio)
    assert str(error.value).startswith("audio: ") and "\n" not in str(error.value)
