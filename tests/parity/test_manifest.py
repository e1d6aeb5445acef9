"""The full-size model: networks built from the recorded list of its tensors take every one of them."""

from __future__ import annotations

import json

import pytest
import torch

from hallo3_core.release.inspect import inspect
from hallo3_core.weights import names
from hallo3_core.weights.kinds import TRANSFORMER_PARTS
from hallo3_core.weights.parts import TEXT, VAE, build, sort_official


@pytest.fixture(scope="module")
def parts(manifest):
    return sort_official(
        {
            name: torch.empty(each["shape"], dtype=getattr(torch, each["dtype"]), device="meta")
            for name, each in manifest["tensors"].items()
        }
    )


@pytest.mark.parametrize("part", TRANSFORMER_PARTS)
def test_each_network_takes_its_tensors_and_lacks_none(parts, part):
    network = {name: tuple(parameter.shape) for name, parameter in build(parts, part).named_parameters()}
    assert network == parts.shapes(part)


def test_every_tensor_has_a_place_or_a_reason(manifest, parts):
    assert not parts.unknown
    kept = sum(t.numel() for part in parts.tensors.values() for t in part.values())
    unused = sum(torch.Size(manifest["tensors"][name]["shape"]).numel() for name in parts.unused)
    assert kept + unused == sum(torch.Size(each["shape"]).numel() for each in manifest["tensors"].values())


def test_parameters_are_as_many_as_recorded(manifest, tmp_path):
    counts, buffers = manifest["parameter_counts"], set(manifest["buffers_not_parameters"])
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    report = inspect(tmp_path / "manifest.json")
    (file,) = report.files
    assert (
        report.usable
        and not file.unknown
        and not file.missing
        and not file.faults
        and file.tensors == len(manifest["tensors"])
    )

    def unused(prefix: str) -> int:
        return sum(
            torch.Size(manifest["tensors"][name]["shape"]).numel()
            for name in file.unused
            if name.startswith(prefix) and name not in buffers
        )

    found = {part: each.parameters for part, each in file.parts.items()}
    denoiser, reference = names.PREFIXES
    trunk = sum(found[part] for part in (names.DENOISER, names.AUDIO_PROJECTOR, names.FACE_PROJECTOR))
    assert trunk + unused(denoiser) == counts["denoiser_total"]
    assert unused(denoiser) == counts["denoiser_unused_position_embeddings"]
    assert found[names.AUDIO_PROJECTOR] == counts["denoiser_audio_proj"]
    assert found[names.FACE_PROJECTOR] == counts["denoiser_face_proj"]
    assert found[names.REFERENCE_NET] + unused(reference) == counts["refnet_total"]
    assert found[VAE] == counts["vae_total"]
    assert found[TEXT] == counts["t5_encoder_total"]
