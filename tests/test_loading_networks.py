"""Loading networks for a film: directly to their device, freed or kept, with the same film in each case."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hallo3_core.animate import animate
from hallo3_core.errors import InputError
from hallo3_core.film.work_folder import Keeping
from hallo3_core.film.writer import read_film
from hallo3_core.inputs.text import TextEncoder, encoder_bytes, load_text_encoder
from hallo3_core.model.denoiser import Denoiser
from hallo3_core.model.projectors import AudioProjector
from hallo3_core.model.reference_net import ReferenceNet
from hallo3_core.model.scaled import ScaledLinear
from hallo3_core.pipeline.networks import Networks, can_keep_all
from hallo3_core.pipeline.options import Options, Settings
from hallo3_core.release.layout import Release
from hallo3_core.runtime.devices import all_bytes
from hallo3_core.runtime.streaming import StreamedBlocks
from hallo3_core.sampling.guidance import Guidance
from hallo3_core.weights import names

OPTIONS = Options(Settings(steps=2), size=(32, 48))


class Counting(Release):
    """A release that records what is loaded from it."""

    def __init__(self, folder):
        super().__init__(folder)
        self.loaded = []

    def network(self, part, **kw):
        self.loaded.append(part)
        return super().network(part, **kw)

    def vae(self, **kw):
        self.loaded.append("vae")
        return super().vae(**kw)


@pytest.fixture(scope="module")
def make(tiny_release, portrait, short_speech, tmp_path_factory):
    """`make(options, networks)` returns a film's frames; without networks it loads its own."""

    def film(options=OPTIONS, networks=None):
        path = tmp_path_factory.mktemp("film") / "film.mp4"
        release = networks.release if networks else Release(tiny_release)
        animate(
            portrait, short_speech, "A person.", path, networks or Networks(release, options), keeping=Keeping.NEVER
        )
        return read_film(path)[0]

    return film


@pytest.fixture(scope="module")
def plain(make):
    return make()


def test_kept_networks_make_the_same_films_and_are_loaded_once(make, plain, tiny_release):
    networks = Networks(Counting(tiny_release), OPTIONS, keep=True)
    for _ in range(2):
        assert torch.equal(make(networks=networks), plain)
    assert sorted(networks.release.loaded) == sorted(
        [names.AUDIO_PROJECTOR, names.DENOISER, names.FACE_PROJECTOR, names.REFERENCE_NET, "vae"]
    )


def test_other_networks_are_freed_one_after_another(make, plain, tiny_release):
    networks = Networks(Counting(tiny_release), OPTIONS)
    with networks.part(names.REFERENCE_NET) as reference_net:
        assert not any(p.is_meta for p in reference_net.parameters())
    assert all(p.is_meta for p in reference_net.parameters())
    assert torch.equal(make(networks=networks), plain)
    assert networks.release.loaded.count("vae") == 2  # for the portrait, and for the clips


def test_a_failed_film_frees_them_too(tiny_release):
    networks = Networks(Release(tiny_release), OPTIONS)
    with pytest.raises(KeyboardInterrupt), networks.denoiser() as denoiser:
        raise KeyboardInterrupt
    assert all(p.is_meta for p in denoiser.parameters())


def test_a_streamed_film_is_the_same(make, plain):
    assert torch.equal(make(replace(OPTIONS, stream=True)), plain)


def test_what_is_streamed(tiny_release):
    """The three large networks are streamed; a streamed network cannot be kept."""
    networks = Networks(Release(tiny_release), replace(OPTIONS, stream=True), keep=True)
    with networks.denoiser() as denoiser, networks.part(names.REFERENCE_NET) as net, networks.text_encoder() as text:
        blocks = (denoiser.blocks, net.blocks, text.model.encoder.block)
        assert all(isinstance(each, StreamedBlocks) for each in blocks)
    with networks.denoiser() as another:
        assert another is not denoiser


def test_what_does_not_fit_is_streamed_unasked_and_makes_the_same_film(make, plain, tiny_release, monkeypatch, caplog):
    """The denoiser's weights fit, but not together with its activations. The other networks then fit."""
    release = Release(tiny_release)
    free = iter([release.network_bytes(names.DENOISER, dtype=torch.float32), 10**9, 10**9])
    monkeypatch.setattr("hallo3_core.pipeline.networks.free_bytes", lambda device: next(free))
    networks = Networks(release, OPTIONS, keep=True)
    with networks.denoiser() as denoiser, networks.part(names.REFERENCE_NET) as net, networks.text_encoder() as text:
        streamed = [
            isinstance(each, StreamedBlocks) for each in (denoiser.blocks, net.blocks, text.model.encoder.block)
        ]
    assert streamed == [True, False, False]
    words = r"denoiser needs \d+\.\d\d MB, cpu has \d\.\d\d MB free: its blocks are streamed from host memory"
    assert re.search(words, caplog.text)
    with networks.part(names.REFERENCE_NET) as kept:  # the memory check is skipped
        assert kept is net
    monkeypatch.setattr("hallo3_core.pipeline.networks.free_bytes", lambda device: 0)
    assert torch.equal(make(networks=Networks(release, OPTIONS)), plain)


@pytest.mark.parametrize("in_fp8", [False, True])
def test_the_size_of_a_network_is_known_before_it_is_read(tiny_release, in_fp8):
    release, kept = Release(tiny_release), dict(dtype=torch.bfloat16, in_fp8=in_fp8)
    module = release.network(names.DENOISER, **kept)
    size = sum(p.nbytes for name, p in module.named_parameters() if not name.endswith("weight_scale"))
    assert release.network_bytes(names.DENOISER, **kept) == size


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_so_is_that_of_the_text_encoder(tiny_release, dtype):
    folder = Release(tiny_release).text_folder
    model = load_text_encoder(folder, dtype=dtype).model
    assert encoder_bytes(folder, dtype) == sum(p.nbytes for p in model.parameters())


class Casts(TorchDispatchMode):
    """Counts copies from one device or type to another."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._to_copy.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("dtype", "device"), [("float16", "cpu"), ("bfloat16", "meta"), ("float16", "meta")])
def test_a_tensor_is_cast_and_moved_in_one_go(tiny_release, dtype, device):
    release = Release(tiny_release)
    release.transformers()
    with Casts() as casts:
        module = release.network(names.DENOISER, device=device, dtype=getattr(torch, dtype))
    assert casts.count == len(list(module.parameters()))


def test_what_is_in_the_right_place_stays_mapped(tiny_release):
    release = Release(tiny_release)
    stored = release.transformers().tensors[names.DENOISER]
    module = release.network(names.DENOISER, dtype=torch.bfloat16)
    assert all(p.data_ptr() == stored[name].data_ptr() for name, p in module.named_parameters())


def test_fp8_and_loras_reach_the_denoiser(tiny_release, caplog):
    options = replace(OPTIONS, fp8="weights")
    with Networks(Release(tiny_release), options).denoiser() as denoiser:
        assert type(denoiser.blocks[0].mlp.up) is ScaledLinear
    options = replace(OPTIONS, fp8="products", dtype=torch.bfloat16)
    with Networks(Release(tiny_release), options).denoiser() as denoiser:
        assert type(denoiser.blocks[0].mlp.up) is ScaledLinear  # a CPU only emulates the other kind
    assert "cpu has no fp8 matmul" in caplog.text


def test_room_for_all_networks_is_half_of_the_memory(tiny_release, monkeypatch):
    release = Release(tiny_release)
    size = sum(path.stat().st_size for path in release.files())
    for memory, fits in ((4 * size, True), (3 * size, False)):  # float32: twice the files
        with monkeypatch.context() as patched:
            patched.setattr("hallo3_core.pipeline.networks.all_bytes", lambda device, memory=memory: memory)
            assert can_keep_all(release, OPTIONS) == fits
    alone = all_bytes("cpu")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert alone > 1 << 28 and all_bytes("cpu") == alone // 4


def test_choices_reach_the_steps(make, plain, monkeypatch):
    """Guidance on half of the steps, and a step cache: the number of model calls drops."""
    from hallo3_core.model.denoiser import Denoiser

    samples, forward = [], Denoiser.forward

    def counted(self, latent, *args):
        samples.append(len(latent))
        return forward(self, latent, *args)

    monkeypatch.setattr(Denoiser, "forward", counted)
    make(replace(OPTIONS, settings=Settings(4, Guidance(stop=0.5), "ddim")))
    assert samples == [2, 2, 1, 1]
    samples.clear()
    make(replace(OPTIONS, settings=Settings(8, sampler="ddim", cache=0.99)))
    assert samples.count(2) == len(samples) < 8


def test_only_what_a_step_computes_with_is_there_while_sampling(make, monkeypatch):
    from hallo3_core.model.denoiser import Denoiser

    resident, forward = set(), Denoiser.forward

    def watched(self, *args):
        resident.update(name.split(".")[0] for name, p in self.named_parameters() if not p.is_meta)
        return forward(self, *args)

    monkeypatch.setattr(Denoiser, "forward", watched)
    make()
    tables = {"text_positions", "video_positions"}  # those of the layout are views of them
    assert resident == {"blocks", "patch_embed", "final_norm", "head_norm", "head"} | tables


class OutOfMemoryOnce:
    """Runs out of memory in every call of one module that is not streamed, and counts the calls."""

    def __init__(self, monkeypatch, kind, method, is_streamed):
        self.failed, plain = 0, getattr(kind, method)

        def call(module, *args, **kw):
            if is_streamed(module):
                return plain(module, *args, **kw)
            self.failed += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")

        monkeypatch.setattr(kind, method, call)


def test_what_runs_out_of_memory_is_streamed_and_the_film_is_the_same(make, plain, tiny_release, monkeypatch, caplog):
    """Each large network runs out of memory once, while running or while preparing constants, despite the estimate."""

    def blocks_are_streamed(module):
        return isinstance(module.blocks, StreamedBlocks)

    failing = [
        OutOfMemoryOnce(monkeypatch, ReferenceNet, "forward", blocks_are_streamed),
        OutOfMemoryOnce(monkeypatch, Denoiser, "face_keys_values", blocks_are_streamed),
        OutOfMemoryOnce(
            monkeypatch, TextEncoder, "encode", lambda e: isinstance(e.model.encoder.block, StreamedBlocks)
        ),
    ]
    assert torch.equal(make(networks=Networks(Release(tiny_release), OPTIONS)), plain)
    assert [each.failed for each in failing] == [1, 1, 1]
    for what in ("encoding the portrait", "preparing the denoiser", "encoding the prompt"):
        assert f"out of memory while {what} with the network on the device: trying again with its blocks" in caplog.text


def test_a_small_network_that_runs_out_of_memory_is_one_line(tiny_release, make, monkeypatch):
    OutOfMemoryOnce(monkeypatch, AudioProjector, "forward", lambda module: False)
    with pytest.raises(InputError, match="out of memory while projecting the recording"):
        make(networks=Networks(Release(tiny_release), OPTIONS))
