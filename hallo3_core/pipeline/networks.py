"""The networks that make a film: each is loaded when it is used, then freed or kept for the next film."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import TypeVar

import torch
from torch import nn

from ..inputs.audio import Wav2Vec, load_wav2vec
from ..inputs.face import FaceAnalyser, load_face_analyser
from ..inputs.text import TextEncoder, encoder_bytes, load_text_encoder
from ..model.attention import Attention, scaled_dot_product
from ..model.config import Grid, TransformerConfig
from ..model.denoiser import Denoiser
from ..model.scaled import Int8Linear
from ..release.layout import Release
from ..release.lora.applying import apply_loras
from ..release.lora.file import LoraFile
from ..runtime.activations import activation_bytes, encode_bytes, reference_bytes, run_bytes
from ..runtime.attention_backends import check_attention, choose_attention
from ..runtime.compiling import check_compiler, compile_blocks
from ..runtime.devices import all_bytes, check_dtype, free_bytes, free_cached_memory
from ..runtime.fallback import Fallbacks
from ..runtime.fp8_matmul import has_fp8_matmuls, use_fp8_matmuls
from ..runtime.half_precision import check_half_precision, convolution_calls
from ..runtime.streaming import streamed
from ..vae.autoencoder import PIXELS
from ..vae.latents import film_grid
from ..weights import names
from ..weights.disk import size_text
from ..weights.parts import transformer_config
from .choices import FP8_PRODUCTS
from .options import Options

HALF = (torch.bfloat16, torch.float16)
MARGIN = 2**28  # bytes added to every estimate: kernel workspace and allocator fragmentation
DIRECT, STREAMED = "with the network on the device", "with its blocks streamed from host memory"
TEXT_ENCODER, WAV2VEC = "text encoder", "wav2vec"
LARGE = (TEXT_ENCODER, names.REFERENCE_NET, names.DENOISER)
STORED = 2  # bytes per value in the release's files
T = TypeVar("T")
log = logging.getLogger(__name__)


class Networks:
    """Loads the networks of a release as `options` require: onto the device, or with blocks streamed to it.

    With `keep`, each is loaded once and reused for all films made with this object. Otherwise it is freed after use.
    """

    def __init__(self, release: Release, options: Options, keep: bool = False):
        self.release, self.options = release, options
        self._keep = keep and not options.stream
        self._kept: dict[str, object] = {}
        self._compared: set[tuple[int, int]] = set()  # sizes at which half precision was checked
        self._short: set[str] = set()  # networks for which memory ran out: streamed from then on

    @property
    def config(self) -> TransformerConfig:
        """The denoiser's sizes, without loading it."""
        return transformer_config(self.release.transformers(), names.DENOISER, self.release.label)

    @cached_property
    def loras(self) -> list[tuple[LoraFile, float]]:
        """The options' LoRA files, each opened once, with their strengths."""
        return [(LoraFile.open(path), strength) for path, strength in self.options.loras]

    def check_loras(self) -> None:
        """Raises InputError for a file that is not a LoRA for this model. Reads no values."""
        for file, _ in self.loras:
            file.of_denoiser(self.config)

    def check_half_precision(self, size: tuple[int, int]) -> None:
        """Compares half precision with float32, once per `size` (height, width), on the convolutions that a film of
        that size uses. Only on a CPU: no other device is known to compute some of them wrong.

        Raises:
            InputError: this CPU computes one of them wrong.
        """
        dtype = self.options.dtype
        if torch.device(self.options.device).type != "cpu" or dtype not in HALF or size in self._compared:
            return
        vae = self.release.vae(device="meta", dtype=dtype)
        config, (height, width) = self.config, size
        h, w = height // PIXELS, width // PIXELS
        patches = nn.Conv2d(2 * config.channels, config.hidden, config.patch, config.patch, device="meta", dtype=dtype)

        def run() -> None:
            frames = 1 + config.reads.motion_frames
            vae.autoencoder.encoder(torch.empty(1, 3, frames, height, width, device="meta", dtype=dtype))
            vae.autoencoder.decoder(torch.empty(1, vae.latent_channels, 3, h, w, device="meta", dtype=dtype))
            patches(torch.empty(1, 2 * config.channels, h, w, device="meta", dtype=dtype))

        check_half_precision(convolution_calls(nn.ModuleList((vae, patches)), run), dtype)
        self._compared.add(size)

    @contextmanager
    def denoiser(self, size: tuple[int, int] | None = None) -> Iterator[Denoiser]:
        """The denoiser for films of `size` (height, width); None means the trained size."""
        config, options = self.config, self.options
        grid = film_grid(*size, config) if size else config.grid

        def load(device: str) -> Denoiser:
            attention = choose_attention(options.attention, config, device=options.device, dtype=options.dtype)
            return load_denoiser(self.release, config, options, self.loras, attention=attention, device=device)

        weights = self.release.network_bytes(names.DENOISER, dtype=options.dtype, in_fp8=options.fp8 is not None)
        settings = options.settings
        portraits = len({branch.reference for branch in settings.branches()})
        sounds = len({branch.audio for branch in settings.branches()})
        room = activation_bytes(config, grid, 1, options.dtype)
        room += run_bytes(config, grid, portraits, sounds, settings.steps, options.dtype)
        with self._load(names.DENOISER, load, "blocks", weights + room) as denoiser:
            yield denoiser

    @contextmanager
    def part(self, part: str) -> Iterator[nn.Module]:
        """The reference network or a projector, by its name in `names.py`."""
        blocks = "blocks" if part == names.REFERENCE_NET else None
        dtype = self.options.dtype

        def load(device: str) -> nn.Module:
            network = self.release.network(part, device=device, dtype=dtype)
            apply_loras(network, part, self.loras)
            return network

        config = self.config
        side = PIXELS * config.patch
        height, width = self.options.size or (side * config.grid.rows, side * config.grid.columns)
        grid = Grid(1, height // side, width // side)
        portraits = len({branch.reference for branch in self.options.settings.branches()})
        # Before this network runs, the VAE encodes the portrait while both networks' weights are on the device.
        room = max(encode_bytes(1, height, width, dtype), reference_bytes(config, grid, portraits, dtype))
        with self._load(part, load, blocks, self.release.network_bytes(part, dtype=dtype) + room) as module:
            yield module

    @contextmanager
    def vae(self) -> Iterator[nn.Module]:
        def load(device: str) -> nn.Module:
            return self.release.vae(device=device, dtype=self.options.dtype)

        with self._load("vae", load) as vae:
            yield vae

    @contextmanager
    def text_encoder(self) -> Iterator[TextEncoder]:
        folder, dtype = self.release.text_folder, self.options.dtype

        def load(device: str) -> TextEncoder:
            return load_text_encoder(folder, tokens=self.config.text_tokens, device=device, dtype=dtype)

        with self._load(TEXT_ENCODER, load, "encoder.block", encoder_bytes(folder, dtype)) as encoder:
            yield encoder

    @contextmanager
    def wav2vec(self) -> Iterator[Wav2Vec]:
        def load(device: str) -> Wav2Vec:
            return load_wav2vec(self.release.wav2vec_folder, device=device)

        with self._load(WAV2VEC, load) as wav2vec:
            yield wav2vec

    @contextmanager
    def face_analyser(self) -> Iterator[FaceAnalyser]:
        def load(device: str) -> FaceAnalyser:
            return load_face_analyser(self.release.face_folder, self.options.face_provider)

        with self._load("face analyser", load) as analyser:
            yield analyser

    def retrying(self, what: str, name: str, work: Callable[[], T]) -> T:
        """Returns the result of `work`, which loads and uses the network `name`. If memory runs out for one of the
        three large networks, `work` runs again with its blocks streamed from host memory, and the network stays
        streamed.

        what: names the work in messages, such as "encoding the prompt".

        Raises:
            InputError: memory also runs out with streaming.
        """

        def attempt(stream: bool) -> T:
            if stream:
                self.forget(name)
                self._short.add(name)
            return work()

        modes = {DIRECT: False, STREAMED: True}
        if name not in LARGE:
            del modes[STREAMED]
        elif self.options.stream or name in self._short:
            del modes[DIRECT]
        return Fallbacks(what, modes).run(attempt)

    def forget(self, name: str) -> None:
        """Makes the next film reload a network that was modified."""
        self._kept.pop(name, None)

    def drop(self, *modules: nn.Module) -> None:
        """Frees weights that the current film no longer needs, unless networks are kept."""
        for module in () if self._keep else modules:
            module.to("meta")

    @contextmanager
    def _load(self, name: str, load: Callable[[str], T], blocks: str | None = None, needs: int = 0) -> Iterator[T]:
        """Loads a network with `load`, which takes a device. The module list named `blocks` is streamed if options say
        so or if the device has less free memory than the network `needs`, in bytes."""
        device = self.options.device
        stream = blocks is not None and name not in self._kept and self._is_streamed(name, needs)
        loaded = self._kept[name] if name in self._kept else load("cpu" if stream else device)
        if self._keep and not stream:
            self._kept[name] = loaded
        module = getattr(loaded, "model", loaded)  # text encoder and wav2vec include preprocessing
        try:
            with ExitStack() as stack:
                if stream:
                    stack.enter_context(streamed(module, device, blocks))
                yield loaded
        finally:
            if isinstance(module, nn.Module):
                self.drop(module)
                free_cached_memory()  # so that the next network finds contiguous memory

    def _is_streamed(self, name: str, needs: int) -> bool:
        if self.options.stream or name in self._short:
            return True
        free, needs = free_bytes(self.options.device), needs + MARGIN
        if free is None or needs <= free:
            return False
        log.warning(
            "%s needs %s, %s has %s free: its blocks are streamed from host memory",
            name.replace("_", " "),
            size_text(needs),
            self.options.device,
            size_text(free),
        )
        return True


def check_machine(options: Options) -> None:
    """Raises InputError if this machine does not support the dtype, attention kernel or compiling. Loads no network."""
    check_dtype(options.dtype, options.device)
    if options.compile:
        check_compiler(options.device, in_fp8=options.fp8 is not None)
    check_attention(options.attention, options.device)


def load_denoiser(
    release: Release,
    config: TransformerConfig,
    options: Options,
    loras: Sequence[tuple[LoraFile, float]] = (),
    *,
    attention: Attention = scaled_dot_product,
    device: torch.device | str = "cpu",
) -> Denoiser:
    """The denoiser with its LoRAs, read, cast and moved tensor by tensor; in fp8 if options say so."""
    denoiser = release.network(
        names.DENOISER, attention=attention, in_fp8=options.fp8 is not None, device=device, dtype=options.dtype
    )
    if options.fp8 and any(isinstance(layer, Int8Linear) for layer in denoiser.modules()):
        log.warning("the denoiser's matrices are in int8 and stay so: --fp8 changes nothing")
    apply_loras(denoiser, names.DENOISER, loras, config)
    if options.fp8 == FP8_PRODUCTS:
        if has_fp8_matmuls(options.device):
            use_fp8_matmuls(denoiser)
        else:
            log.warning("%s has no fp8 matmul: weights are kept in fp8 and multiplied in bf16", options.device)
    if options.compile:
        compile_blocks(denoiser)
    return denoiser


def can_keep_all(release: Release, options: Options) -> bool:
    """Whether all networks together fit in half of the device's memory. The other half is for activations."""
    size = sum(path.stat().st_size for path in release.files()) * max(1, options.dtype.itemsize / STORED)
    return size <= all_bytes(options.device) / 2
