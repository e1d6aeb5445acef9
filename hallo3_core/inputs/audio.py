"""Audio features that drive the mouth: wav2vec2 features for each film frame, and the windows for each clip.

Source: the released sampler normalises the whole recording, pads it with zeros to a multiple of 49 frames, interpolates
wav2vec2's 50 features per second to 25, and keeps the output of every transformer layer (without the embedding).
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..clips import FPS, FRAMES_PER_CLIP, Timeline, film_frames
from ..errors import InputError, require_class
from ..runtime.without_storage import without_storage
from ..weights.config_file import read_config, read_json
from ..weights.model_folder import weights_in
from ..weights.shards import read_model
from .recording import VOICE_RATE, Recording, check_recording, to_mono

SAMPLES_PER_FRAME = VOICE_RATE // FPS
REACH = 2  # frames on either side of a window's own frame
WINDOW = 2 * REACH + 1
PIECE_STEPS = 500  # feature steps per chunk: 10 seconds, about 0.3 GB at the real size

_PREFIX = "wav2vec2."  # of the network inside a model with a head; the head is not used
_TRAINING_ONLY = "masked_spec_embed"  # replaces masked inputs in training; missing from the released file
_RENAMED = {  # torch's weight norm, from its old names to those of the parametrization
    "encoder.pos_conv_embed.conv.weight_g": "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    "encoder.pos_conv_embed.conv.weight_v": "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
}


@dataclass(frozen=True, eq=False)
class Wav2Vec:
    """A wav2vec2 network in eval mode, on the device it was loaded to."""

    model: nn.Module

    @property
    def layers(self) -> int:
        return self.model.config.num_hidden_layers

    @property
    def dim(self) -> int:
        return self.model.config.hidden_size


@dataclass(frozen=True, eq=False)
class AudioFeatures:
    """wav2vec2's features of a whole recording: `hidden` ``padded layers dim``, float32 on the CPU, 25 per second.

    `frames` is the film's length; `padded` is the next multiple of 49.
    """

    hidden: Tensor
    frames: int
    recording: Recording

    @property
    def clips(self) -> int:
        """Number of clips with the released model, whose clips repeat 2 frames."""
        return Timeline(self.frames).clips


def load_wav2vec(path: str | PathLike, *, device: torch.device | str = "cpu") -> Wav2Vec:
    """Loads wav2vec2 from a folder in the usual layout, or from a weights file with its `config.json` next to it.

    Always in float32, like the original, whatever the dtype of the file and of the other networks: some CPUs compute
    its convolutions wrong in bfloat16 (`runtime/half_precision.py`). Never downloads anything and never initialises a
    weight at random.

    Raises:
        InputError: config or weights are missing, it is another kind of model, or a tensor, which the message names,
            does not fit.
    """
    path = Path(path)
    weights = weights_in(path, "Choose the folder of facebook/wav2vec2-base-960h.") if path.is_dir() else path
    config = _read_config(weights.parent)
    tensors = read_model(weights)
    if any(name.startswith(_PREFIX) for name in tensors):
        tensors = {name.removeprefix(_PREFIX): t for name, t in tensors.items() if name.startswith(_PREFIX)}
    tensors = {_RENAMED.get(name, name): tensor for name, tensor in tensors.items()}

    network = require_class("transformers", "Wav2Vec2Model", "transformers", "wav2vec2")
    try:
        model = without_storage(network, config)
    except Exception as error:  # its class depends on the version of transformers
        raise InputError(f"{weights.parent}: its config.json describes no usable wav2vec2 ({error}).") from error
    expected = model.state_dict()
    if _TRAINING_ONLY in expected:
        tensors.setdefault(_TRAINING_ONLY, torch.zeros(expected[_TRAINING_ONLY].shape))
    for found, problem in ((expected.keys() - tensors.keys(), "lacks"), (tensors.keys() - expected.keys(), "has")):
        if found:
            raise InputError(
                f"{weights}: not the wav2vec2 of its config.json: {problem} {sorted(found)[0]} "
                f"({len(found)} such tensors). Get the folder facebook/wav2vec2-base-960h again."
            )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                f"{weights}: {name} has shape {list(tensor.shape)}, by its config.json {list(expected[name].shape)}. "
                "Use the config.json that belongs to it."
            )
    tensors = {name: tensor.to(device, torch.float32) for name, tensor in tensors.items()}
    model.load_state_dict(tensors, assign=True)
    return Wav2Vec(model.eval().requires_grad_(False))


@torch.no_grad()
def encode_audio(recording: Recording, wav2vec: Wav2Vec) -> AudioFeatures:
    """Encodes a recording of any length: normalises, pads, convolves, interpolates to 25 features per second, encodes.

    The transformer always sees the whole recording in one pass, since its attention spans all of it. The convolutions
    run in chunks, with the same result as in one pass. Memory grows with the features (36 KB per frame at the real
    size, 3.3 GB per hour) and the activations of the running layer, less than twice that. Measured at the real size on
    a CPU, without the model: 0.20 GB for 1 minute, 0.63 GB for 4, of which 0.21 GB are features.

    Raises:
        InputError: an invalid recording, or features that are NaN or infinite.
    """
    recording = check_recording(recording)
    signal = padded_signal(to_mono(recording))
    hidden = encode_features(convolve(wav2vec.model, signal), padded_frames(recording.frames), wav2vec)
    if not all(value.isfinite() for value in hidden.aminmax()):
        raise InputError(
            f"{recording.name}: wav2vec2 gives NaN or infinity. Its weights may be damaged: get the folder "
            "facebook/wav2vec2-base-960h again."
        )
    return AudioFeatures(hidden, recording.frames, recording)


def padded_frames(frames: int) -> int:
    """Number of frames that wav2vec2 encodes: the next multiple of 49, as in the released sampler."""
    return -(-frames // FRAMES_PER_CLIP) * FRAMES_PER_CLIP


def padded_signal(waveform: Tensor) -> Tensor:
    """Normalises 16 kHz ``samples`` to mean 0 and deviation 1, and pads with zeros to a multiple of 49 frames.

    Each frame of padding is 640 samples.
    """
    samples, frames = waveform.shape[0], film_frames(waveform.shape[0], VOICE_RATE)
    variance, mean = torch.var_mean(waveform, correction=0)
    signal = waveform.new_zeros(samples + (padded_frames(frames) - frames) * SAMPLES_PER_FRAME)
    torch.sub(waveform, mean, out=signal[:samples])
    signal[:samples] /= (variance + 1e-7).sqrt()
    return signal


@torch.no_grad()
def convolve(model: nn.Module, signal: Tensor, piece: int = PIECE_STEPS) -> Tensor:
    """wav2vec2's convolutions: ``samples -> dim steps``, 50 steps per second, float32 on the CPU.

    Runs in chunks of `piece` steps, each with all samples in its receptive field, so the result equals that of one pass
    and memory use is constant. For a group norm, which spans the recording, the whole recording's statistics are
    computed first.
    """
    first, *others = model.feature_extractor.conv_layers
    reach, stride = 1, 1
    for layer in (first, *others):
        reach, stride = reach + (layer.conv.kernel_size[0] - 1) * stride, stride * layer.conv.stride[0]
    steps = (signal.shape[0] - reach) // stride + 1

    begin = first
    if isinstance(first.layer_norm, nn.GroupNorm):
        scale, shift = _whole_norm(first, signal, piece * stride // first.conv.stride[0])

        def begin(x: Tensor) -> Tensor:
            return first.activation(torch.addcmul(shift, first.conv(x).float(), scale).to(x.dtype))

    features = torch.empty(others[-1].conv.out_channels, steps)
    for start in range(0, steps, piece):
        stop = min(start + piece, steps)
        x = begin(_samples(signal, start * stride, (stop - 1) * stride + reach, first.conv.weight))
        for layer in others:
            x = layer(x)
        features[:, start:stop] = x[0]
    return features


@torch.no_grad()
def encode_features(features: Tensor, padded: int, wav2vec: Wav2Vec) -> Tensor:
    """Interpolates convolved features ``dim steps`` to `padded` frames, and returns all layers' outputs
    ``padded layers dim``.

    If the model ends in a norm, the last layer's output is taken after it, as in transformers' `hidden_states`.
    """
    model = wav2vec.model
    stretched = F.interpolate(features[None], size=padded, mode="linear", align_corners=True).transpose(1, 2)
    embedded, _ = model.feature_projection(stretched.to(model.feature_projection.projection.weight))
    hidden = torch.empty(padded, wav2vec.layers, wav2vec.dim)

    def keep(index: int):
        def hook(module: nn.Module, inputs: tuple, output: Tensor | tuple[Tensor, ...]) -> None:
            hidden[:, index] = (output[0] if isinstance(output, tuple) else output)[0]

        return hook

    hooks = [layer.register_forward_hook(keep(index)) for index, layer in enumerate(model.encoder.layers)]
    try:
        with torch.random.fork_rng(devices=[]):  # some versions draw for layer drop even in eval mode
            hidden[:, -1] = model.encoder(embedded).last_hidden_state[0]
    finally:
        for hook in hooks:
            hook.remove()
    return hidden


def windows(hidden: Tensor, indices: Tensor) -> Tensor:
    """Frames i-2 .. i+2 around each index i, clamped at the ends: ``padded layers dim, n -> n 5 layers dim``."""
    around = indices[:, None] + torch.arange(-REACH, REACH + 1)
    return hidden[around.clamp(0, hidden.shape[0] - 1)]


def clip_windows(hidden: Tensor, clip: int, timeline: Timeline | None = None) -> Tensor:
    """Audio windows of one clip, ``padded layers dim -> 49 5 layers dim``: those of the motion frames (zeros in the
    first clip), then those of the new frames. After the end of the sound, the last window repeats.

    timeline: the film's; None: that of the released model for all `padded` frames.

    Raises:
        IndexError: there is no such clip.
    """
    start = (timeline or Timeline(hidden.shape[0])).first_sampled(clip)
    indices = torch.arange(start, start + FRAMES_PER_CLIP).clamp(max=hidden.shape[0] - 1)
    chosen = windows(hidden, indices)
    chosen[indices < 0] = 0
    return chosen


def clip_audio(features: AudioFeatures, clip: int, timeline: Timeline | None = None) -> Tensor:
    """The denoiser's audio input for one clip of the film: ``49 5 layers dim``. timeline: None is the released model's.

    Raises:
        IndexError: the film has no such clip.
    """
    return clip_windows(features.hidden, clip, timeline or Timeline(features.frames))


def check_width(features: AudioFeatures, expected: int, source: str) -> None:
    """Raises InputError unless a window of these features has the `expected` number of values, as the denoiser's audio
    projector needs. `source` names their wav2vec2 in the message."""
    found = WINDOW * features.hidden.shape[1] * features.hidden.shape[2]
    if found != expected:
        raise InputError(
            f"{source} gives {found} values a frame, the denoiser reads {expected}. "
            "Use the wav2vec2 that came with the denoiser."
        )


def _read_config(folder: Path):
    """The folder's `config.json` as a transformers config, checked to be a wav2vec2 with our sample rate and norm."""
    path = folder / "config.json"
    remedy = "Get the config.json of facebook/wav2vec2-base-960h and put it beside the weights."
    content = read_config(path, "wav2vec2", remedy)
    extractor = folder / "preprocessor_config.json"
    sound = read_json(extractor, "Get it again, or remove it.") if extractor.exists() else {}
    for key, ours in (("sampling_rate", VOICE_RATE), ("do_normalize", True)):
        if sound.get(key, ours) != ours:
            raise InputError(f"{extractor}: {key} is {sound[key]}, expected {ours} as in wav2vec2-base-960h.")
    settings = require_class("transformers", "Wav2Vec2Config", "transformers", "wav2vec2")
    try:
        return settings.from_dict(content, attn_implementation="sdpa")
    except Exception as error:  # its class depends on the version of transformers
        raise InputError(f"{path}: not a wav2vec2 configuration ({str(error).splitlines()[-1].strip()}).") from error


def _whole_norm(layer: nn.Module, signal: Tensor, piece: int) -> tuple[Tensor, Tensor]:
    """The first convolution's group norm over the whole signal, as scale and shift, each ``channels 1``.

    The chunks' means and squared deviations are merged in float64 (on the CPU, as not every device supports it), so
    long recordings lose no precision.
    """
    conv, norm = layer.conv, layer.layer_norm
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    steps = (signal.shape[0] - kernel) // stride + 1
    mean = spread = torch.zeros(conv.out_channels, dtype=torch.float64)
    for start in range(0, steps, piece):
        stop = min(start + piece, steps)
        out = conv(_samples(signal, start * stride, (stop - 1) * stride + kernel, conv.weight))[0].float()
        own, other = (value.cpu().double() for value in (out.mean(1), out.var(1, correction=0)))
        count, share = stop - start, (stop - start) / stop
        spread = spread + other * count + (own - mean).square() * start * share
        mean = mean + (own - mean) * share
    scale = norm.weight.cpu().double() / (spread / steps + norm.eps).sqrt()
    shift = norm.bias.cpu().double() - mean * scale
    return tuple(value.float().to(conv.weight.device)[:, None] for value in (scale, shift))


def _samples(signal: Tensor, start: int, stop: int, like: Tensor) -> Tensor:
    """A slice of the signal as the first convolution's input, ``1 1 samples``, with dtype and device of `like`."""
    return signal[start:stop].to(like)[None, None]
