"""The MODEL: wraps the core's denoiser as a host model for its samplers, LoRAs, caches and memory manager."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management as management
import comfy.model_patcher
import comfy.model_sampling
import comfy.supported_models_base
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor

from ...hallo3_core.errors import InputError
from ...hallo3_core.model.config import Grid, TransformerConfig
from ...hallo3_core.model.denoiser import Denoiser
from ...hallo3_core.runtime.activations import activation_bytes
from ...hallo3_core.sampling.schedule import BETA_END, BETA_START, TRAINING_STEPS, zero_terminal_alphas
from ...hallo3_core.vae.autoencoder import LATENT_SCALE
from ...hallo3_core.weights import names
from ...hallo3_core.weights.parts import Parts, transformer_config
from . import memory
from .attention import host_attention
from .checkpoint import read_transformers
from .conditions import BranchCond, ModelCall, check_latent, check_text, prepare_text
from .messages import speaking
from .patches import PatchGuard, check_blocks, check_sampling
from .projectors import Projectors

log = logging.getLogger(__name__)

TIMESTEP = "hallo3_timestep"  # in transformer_options: the exact timestep from the guider, in place of the host's
MODEL_CALL = "hallo3"  # the network's keyword, and the key of a conditioning that carries a BranchCond
HELD = "hallo3_held"  # key of a conditioning: bytes that the run keeps allocated across its steps
CONCAT = "hallo3_concat"  # the key of a conditioning that carries the scaled concat latent
PROJECTORS = "hallo3_projectors"  # attachment of the patcher
TEXT_ALONE = (
    "this samples from the prompt alone, without portrait and voice, which Hallo3 was not made for: use Hallo3 Long "
    "Video or Hallo3 Sample Clip, or Hallo3 Guider with SamplerCustomAdvanced"
)
FLOW_SETTINGS = ("shift", "multiplier", "set_parameters", "set_noise_scale")
SOURCE = "hallo3_source"  # attachment: the path of the weights, and the chosen dtype


class HostDenoiser(Denoiser):
    """The denoiser with the host's calling convention: x holds noisy and concat channels, ``b 32 t h w``."""

    def __init__(self, config: TransformerConfig, storage: str, dtype: torch.dtype, device=None, operations=None):
        # Not on the host's `device`: the checkpoint's tensors are assigned afterwards, not copied.
        super().__init__(config, attention=host_attention, operations=operations, device=storage, dtype=dtype)
        self.dtype = dtype

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        control: Any = None,
        transformer_options: dict | None = None,
        **kwargs,
    ) -> Tensor:
        transformer_options = transformer_options or {}
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, transformer_options)
        executor = WrapperExecutor.new_class_executor(self._call, self, wrappers)
        # EasyCache expects x first and the options last
        return executor.execute(x, timesteps, kwargs[MODEL_CALL], transformer_options)

    def _call(self, x: Tensor, timesteps: Tensor, call: ModelCall, transformer_options: dict) -> Tensor:
        check_blocks(transformer_options)
        latent, concat = x.chunk(2, dim=1)
        modulation = call.modulation
        if modulation is None:
            modulation = self.modulate_steps(timesteps, x.dtype)
        return super().forward(
            latent,
            concat,
            call.conditions,
            modulation,
            call.layout,
            call.clip.attention.joint(transformer_options),
        )


class LatentFormat(comfy.latent_formats.LatentFormat):
    """The latent's properties, for previews and samplers."""

    scale_factor = LATENT_SCALE
    latent_channels = 16
    latent_dimensions = 3
    temporal_downscale_ratio = 4


class Config(comfy.supported_models_base.BASE):
    """The model configuration that the host's base class requires."""

    unet_config: dict = {}
    unet_extra_config: dict = {}
    sampling_settings = {
        "beta_schedule": "linear",
        "linear_start": BETA_START,
        "linear_end": BETA_END,
        "timesteps": TRAINING_STEPS,
        "zsnr": True,
    }
    latent_format = LatentFormat
    memory_usage_factor = 1.0
    supported_inference_dtypes = memory.COMPUTE_DTYPES

    def process_unet_state_dict_for_saving(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """What core's ModelSave writes. It has no metadata of ours, so conditioning that differs from the release's
        goes in as a tensor."""
        mark = self.unet_config["config"].conditioning.mark()
        return super().process_unet_state_dict_for_saving({**state_dict, **mark})


class NoFlow(InputError, AttributeError):
    """An attribute that is missing for a reason; `hasattr` and `getattr` with a default go on without it."""

    __module__, __qualname__ = "builtins", "InputError"  # as the host shows it


class Sampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
    """v-prediction that converts v to x0 with the nearest entry of the 1000-step alphas, as in the release."""

    def __init__(self, config: Config):
        super().__init__(config)
        grid = torch.from_numpy(zero_terminal_alphas(TRAINING_STEPS))
        self.register_buffer("hallo3_alphas", grid, persistent=False)

    def __getattr__(self, name: str) -> Any:
        """Answers nodes that ask for what only flow models have, such as ModelNoiseScale."""
        if name in FLOW_SETTINGS:
            raise NoFlow(
                f"this node changes the noise levels of flow models ({name}), which Hallo3 is not: remove the node."
            )
        return super().__getattr__(name)

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        sigma = sigma.view(-1, *[1] * (model_output.ndim - 1)).float()
        alpha = torch.rsqrt(1 + sigma * sigma)
        grid = self.hallo3_alphas.to(alpha)
        q = grid[(alpha[..., None] - grid).abs().argmin(dim=-1)]
        return q * (model_input * alpha) - torch.sqrt(1 - q * q) * model_output


class Model(comfy.model_base.BaseModel):
    """Hallo3's denoiser as the host's samplers see it."""

    def __init__(self, config: Config, device: torch.device | None = None):
        kind = comfy.model_base.ModelType.V_PREDICTION
        super().__init__(config, kind, device=device, unet_model=HostDenoiser)
        self.model_sampling = Sampling(config)

    @property
    def compute_dtype(self) -> torch.dtype:
        """The network's compute dtype; newer hosts have a method for it."""
        get = getattr(self, "get_dtype_inference", None)
        return get() if get else self.manual_cast_dtype or self.get_dtype()

    def extra_conds(self, **kwargs) -> dict[str, Any]:
        """The guider's conditions if it set them, else conditions from the text alone."""
        check_sampling(self.model_sampling)
        conds = super().extra_conds(**kwargs)
        text = conds.pop("c_crossattn", None)
        if MODEL_CALL in kwargs:
            conds[MODEL_CALL] = kwargs[MODEL_CALL]
            return conds
        if text is None:
            raise InputError("the conditioning holds no text: connect CLIPTextEncode, or use the node Hallo3 Guider")
        check_text(text.cond, self.diffusion_model)
        if kwargs.get("prompt_type") != "negative":  # so that it is logged once per run
            with speaking():
                log.warning(TEXT_ALONE)
        shape, device = kwargs["noise"].shape, kwargs["device"]
        clip = prepare_text(self.diffusion_model, text.cond, shape, self.compute_dtype, device)
        conds[MODEL_CALL] = BranchCond(clip)
        return conds

    def concat_cond(self, **kwargs) -> Tensor:
        """The scaled conditioning latent ``1 16 t h w``; zeros if there is none."""
        noise, concat = kwargs["noise"], kwargs.get(CONCAT)
        if concat is None and (image := kwargs.get("concat_latent_image")) is not None:
            concat = self.process_latent_in(image)
        if concat is None:
            concat = torch.zeros_like(noise)
        if concat.shape[1:] != noise.shape[1:]:
            raise InputError(
                f"the latent has shape {list(noise.shape)}, its image condition {list(concat.shape)}: give both the "
                "same size and frames"
            )
        return concat.to(kwargs["device"])

    def resize_cond_for_context_window(self, cond_key: str, cond_value: Any, *args, **kwargs) -> None:
        """Raises InputError: the model is limited to 13 latent frames, each with its own audio."""
        if cond_key == MODEL_CALL:
            raise InputError("context windows do not work with Hallo3: remove the node, long videos go clip by clip")

    def _apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **kwargs):  # noqa: B006 (the host's signature)
        if TIMESTEP in transformer_options:  # as integers: a float would be rounded to the compute dtype
            kwargs[TIMESTEP] = torch.full((x.shape[0],), transformer_options[TIMESTEP], device=x.device)
        return super()._apply_model(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    def process_timestep(self, timestep: Tensor, **kwargs) -> Tensor:
        exact = kwargs.get(TIMESTEP)
        return timestep if exact is None else exact.float()

    def extra_conds_shapes(self, **kwargs) -> dict[str, list[int]]:
        """Bytes that a run keeps. The host asks before it loads the model and passes them to `memory_required`."""
        return {MODEL_CALL: [kwargs[HELD]]} if HELD in kwargs else {}

    def memory_required(self, input_shape, cond_shapes={}) -> float:  # noqa: B006 (the host's signature)
        """Bytes of activations for latents of this shape, plus what the run keeps, unless that is already allocated: at
        each step the host passes the conditions' own sizes, which are 1."""
        config = self.diffusion_model.config
        check_latent(input_shape, config)  # samplers call this first, so an image's latent is rejected here
        samples, _, frames, height, width = input_shape
        grid = Grid(frames, height // config.patch, width // config.patch)
        held = max((size for (size,) in cond_shapes.get(MODEL_CALL, ())), default=0)
        return held + activation_bytes(config, grid, samples, self.compute_dtype)


def load_model(path: str, choice: str = "auto", disable_dynamic: bool = False) -> Any:
    """Loads the MODEL from a denoiser's file or release; `choice` is a key of `memory.DTYPES`.

    The host calls this again, with `disable_dynamic`, when it needs a copy with its own weights.

    Raises:
        InputError: not a Hallo3 denoiser, or a damaged one.
    """
    parts = read_transformers(Path(path), names.DENOISER, with_projectors=True)
    source = Path(path).name
    tensors, quantised = memory.prepare_weights(memory.checked(parts, names.DENOISER, source), choice)
    dtype, compute = memory.choose_dtypes(tensors, choice, quantised)
    sizes = transformer_config(parts, names.DENOISER, source)
    config = Config({"config": sizes, "storage": memory.storage(quantised)})
    config.quant_config = memory.QUANTISED if quantised else None
    config.set_inference_dtype(dtype, compute)
    if quantised:
        config.custom_operations = memory.host_layers(dtype, compute, quantised, choice)
    model = Model(config, device=management.unet_offload_device())
    config.unet_config["model_channels"] = sizes.hidden  # nodes such as FreeU read it before they are rejected
    memory.assign(model.diffusion_model, tensors, dtype)
    patcher = memory.patcher_for(model, plain=disable_dynamic, guard=PatchGuard)
    patcher.cached_patcher_init = (load_model, (path, choice))
    patcher.set_attachments(SOURCE, (Path(path), choice))
    patcher.set_attachments(PROJECTORS, load_projectors(parts, source))
    return patcher


def load_projectors(parts: Parts, source: str) -> Projectors:
    """Loads the projectors that a checkpoint's denoiser reads. They have their own patchers, because they run before
    the steps, not during them."""
    config = transformer_config(parts, names.DENOISER, source)
    audio, face = (
        memory.hosted_part(parts, part, "auto", source) if width else None
        for part, width in ((names.AUDIO_PROJECTOR, config.audio), (names.FACE_PROJECTOR, config.face))
    )
    return Projectors(audio, face, config.reads.motion_frames)


def require_model(patcher: Any) -> Model:
    """Returns the model of a MODEL.

    Raises:
        InputError: it is not a Hallo3 model.
    """
    if not isinstance(getattr(patcher, "model", None), Model):
        found = type(getattr(patcher, "model", patcher)).__name__
        raise InputError(f"the model is a {found}, expected Hallo3: connect the node Hallo3 Model Loader")
    return patcher.model


def projectors_of(patcher: Any) -> Projectors:
    """Returns the projectors attached to a MODEL.

    Raises:
        InputError: it is not a Hallo3 model.
    """
    require_model(patcher)
    return patcher.get_attachment(PROJECTORS)
