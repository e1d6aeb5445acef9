"""The GUIDER: three-scale guidance in the host's samplers. Branches of weight zero are never computed."""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import partial
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...hallo3_core.errors import InputError
from ...hallo3_core.model.config import Grid
from ...hallo3_core.pipeline.conditions import FilmConditions
from ...hallo3_core.runtime.activations import run_bytes
from ...hallo3_core.sampling.finite import check_finite
from ...hallo3_core.sampling.guidance import EVERYTHING, Branch, Guidance, combine
from .conditions import BranchCond, ClipInputs, FilmCache, HostClip, check_text, prepare_clip, prepare_film
from .memory import only_on_device
from .model import CONCAT, HELD, MODEL_CALL, TIMESTEP, require_model
from .patches import AFTER, AfterGuidance, check_model, guide_pair, replaces_guidance, skipped_steps
from .solver import timesteps_of


class Guider(comfy.samplers.CFGGuider):
    """Computes and combines the branches that the scales need. Made for one clip, whose inputs it keeps on the CPU."""

    def __init__(
        self, patcher: Any, inputs: ClipInputs, guidance: Guidance, batched: bool = True, film: FilmCache | None = None
    ):
        """batched: run the model calls of a step together, as far as memory allows. film: cache of the conditions that
        the clips of a film share.

        Raises:
            InputError: not a Hallo3 model, or text of a shape that it cannot read.
        """
        check_text(inputs.text, require_model(patcher).diffusion_model)
        super().__init__(patcher)
        self.inputs, self.guidance, self.batched, self.film = inputs, guidance, batched, film
        self.saved = 0  # model calls that a cache of core's made unnecessary in the last run

    @property
    def empty_latent(self) -> Tensor:
        """A latent of the clip's size to start from, ``1 16 t h w``."""
        return torch.zeros_like(self.inputs.concat)

    def sample(self, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor, *args, **kwargs) -> Tensor:
        """Samples like the host's guider. The clip's conditions are on the device only during this call.

        Raises:
            InputError: a latent of the wrong size, or a change to the model by another node that cannot work.
        """
        self.saved = 0
        self._check(noise)
        check_model(self.model_patcher, self.guidance, max(1, len(sigmas) - 1))
        branches = self.guidance.branches(len(sigmas) - 1) if len(sigmas) > 1 else {EVERYTHING}
        self.sigmas, self.timesteps = sigmas, timesteps_of(sigmas) if len(sigmas) > 1 else None
        self.original_conds = {}
        held = {HELD: self._held(branches)}
        self.inner_set_conds({name_of(branch): [[None, held]] for branch in sorted(branches, reverse=True)})
        only_on_device(self.model_patcher)
        try:
            return super().sample(noise, latent_image, sampler, sigmas, *args, **kwargs)
        finally:  # after a cancel the host leaves some of these set, and it caches this object
            for name in ("conds", "inner_model", "loaded_models", "clip", "sigmas", "timesteps"):
                self.__dict__.pop(name, None)

    def inner_sample(self, *args, **kwargs) -> Tensor:
        """Prepares what all steps share: at this point the model is loaded and patched."""
        branches = {branch for branch in _BRANCHES if name_of(branch) in self.conds}
        self.clip = self.prepare(branches)
        for branch in branches:
            for cond in self.conds[name_of(branch)]:
                cond[MODEL_CALL] = BranchCond(self.clip, (branch,))
                cond[CONCAT] = self.inputs.concat
        return super().inner_sample(*args, **kwargs)

    def prepare(self, branches: Collection[Branch]) -> HostClip:
        """Computes what all steps share, on the device."""
        model, exact = self.inner_model, self.timesteps
        steps = torch.tensor(exact) if exact else model.model_sampling.timestep(self.sigmas[:-1]).float()
        denoiser, dtype, device = model.diffusion_model, model.compute_dtype, self.model_patcher.load_device

        def make() -> FilmConditions:
            return prepare_film(denoiser, self.inputs, branches, steps, dtype, device)

        key = (frozenset(branches), tuple(steps.tolist()), dtype)
        film = make() if self.film is None else self.film.get(key, device, make)
        return prepare_clip(denoiser, self.inputs, film)

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: dict = {}, seed: int | None = None) -> Tensor:  # noqa: B006 (the host's signature)
        """Predicts x0 of this step: the weighted sum of the branches."""
        options = model_options["transformer_options"]
        sigma, sigmas = float(timestep.flatten()[0]), options["sample_sigmas"]
        step = step_of(sigma, sigmas)
        is_on_grid = math.isclose(sigma, float(sigmas[step]), rel_tol=1e-5)  # some solvers evaluate between two steps
        self.clip.step = step if is_on_grid else None
        if self.timesteps is not None and is_on_grid:
            options = {**options, TIMESTEP: self.timesteps[step]}
            model_options = {**model_options, "transformer_options": options}
        weights = self.guidance.weights(step, len(sigmas) - 1)
        skipped = skipped_steps(model_options)
        clean, results = self._guided(weights, x, timestep, model_options)
        self.saved += len(weights) * (skipped_steps(model_options) - skipped)
        check_finite(clean, step, len(sigmas) - 1)
        return self._after(clean, results, weights, x, timestep, model_options)

    def _guided(self, weights: dict[Branch, float], x, timestep, options) -> tuple[Tensor, dict[Branch, Tensor]]:
        """Returns x0 and the branches: their weighted sum, or the result of other nodes' guidance functions."""
        if len(weights) == 2 and replaces_guidance(options):
            least, most = min(weights), max(weights)
            evaluate = partial(self._evaluate, x=x, timestep=timestep, options=options)
            conds = (self.conds[name_of(most)], self.conds[name_of(least)])
            found = guide_pair(evaluate, self.inner_model, *conds, weights[most], x, timestep, options)
            clean, plus, minus = (each.float() for each in found)
            return clean, {least: minus, most: plus}
        found = self._evaluate([self.conds[name_of(branch)] for branch in weights], x, timestep, options)
        results = dict(zip(weights, found, strict=True))
        return combine(results, weights), results

    def _evaluate(self, conds: list, x: Tensor, timestep: Tensor, options: dict) -> list[Tensor]:
        groups = [conds] if self.batched else [[cond] for cond in conds]
        evaluate = comfy.samplers.calc_cond_batch
        return [result for group in groups for result in evaluate(self.inner_model, group, x, timestep, options)]

    def _after(self, clean: Tensor, results: dict[Branch, Tensor], weights, x, timestep, options: dict) -> Tensor:
        """Applies other nodes' post-guidance functions, which the host's own guidance function would call."""
        least, most = min(results), max(results)
        scale = {} if len(results) > 2 else {"cond_scale": weights[most]}
        for function in options.get(AFTER, []):
            values = {
                "denoised": clean,
                "cond": self.conds[name_of(most)],
                "uncond": self.conds[name_of(least)],
                "model": self.inner_model,
                "uncond_denoised": results[least],
                "cond_denoised": results[most],
                "sigma": timestep,
                "model_options": options,
                "input": x,
            }
            clean = function(AfterGuidance(values | scale, function))
        return clean

    def _held(self, branches: Collection[Branch]) -> int:
        """Bytes that the run keeps allocated across its steps."""
        model = self.model_patcher.model
        config, (_, _, frames, height, width) = model.diffusion_model.config, self.inputs.concat.shape
        grid = Grid(frames, height // config.patch, width // config.patch)
        portraits, sounds = (len(set(each)) for each in list(zip(*branches, strict=True))[:2])
        return run_bytes(config, grid, portraits, sounds, len(self.sigmas) - 1, model.compute_dtype)

    def _check(self, noise: Tensor) -> None:
        expected = self.inputs.concat.shape[1:]
        if noise.shape[1:] != expected:
            channels, frames, height, width = expected
            raise InputError(
                f"the latent has shape {list(noise.shape)}, this clip needs [1, {channels}, {frames}, {height}, "
                f"{width}]: use an empty video latent of {width * 8}x{height * 8} and {4 * frames - 3} frames"
            )


_BRANCHES = tuple(Branch(r, a, t) for r in (False, True) for a in (False, True) for t in (False, True))


def name_of(branch: Branch) -> str:
    """The name of a branch's conditioning in the host."""
    return "hallo3_" + "".join(letter for letter, own in zip("rat", branch, strict=True) if own)


def step_of(sigma: float, sigmas: Tensor) -> int:
    """The step that a model call at `sigma` belongs to; solvers may evaluate between two steps."""
    reached = int((sigmas[:-1].double() >= sigma * (1 - 1e-6)).sum())
    return max(reached - 1, 0)
