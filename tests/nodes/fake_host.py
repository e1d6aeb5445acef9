"""A small host: exactly the calls of ComfyUI that the pack makes, doing on a CPU what ComfyUI documents of them.

Written from the calls' contracts, not from ComfyUI's source. `test_pack.py` checks that the pack uses no other
names; with COMFYUI_PATH set the same tests run on the real one.
"""

from __future__ import annotations

import json
import logging
import mimetypes
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

CPU = torch.device("cpu")


class Cancelled(BaseException):
    """What the host raises when the user cancels."""


class LatentPreviewMethod:
    Auto, TAESD = "auto", "taesd"


class State:
    """What tests look at: the order in which networks were loaded, progress, and the Cancel button."""

    def __init__(self):
        self.loaded: list[str] = []
        self.progress: list[tuple[int, int]] = []
        self.texts: list[tuple[str, str]] = []
        self.cancel_after: int | None = None
        self.previews, self.previewed = False, []
        self.preview_method = LatentPreviewMethod.Auto
        self.sage, self.fp8_matmul = False, False  # how the host was started, and what its device can do
        self.executing = None  # what the host says of the node that runs


STATE = State()
LOADED: list = []  # the host's list of what is on a device, the newest first


class LoadedModel:
    def __init__(self, model):
        self.model = model


def load_models_gpu(models, memory_required=0):
    STATE.loaded += [type(patcher.model).__name__ for patcher in models]
    LOADED[:] = [*map(LoadedModel, models), *(old for old in LOADED if not any(map(old.model.is_clone, models)))]
    for patcher in models:
        _patch_weights(patcher)


def _patch_weights(patcher):
    """A model has the patches of the patcher that it was loaded by last, which shares it with its clones."""
    model = patcher.model
    if plain := model.__dict__.pop("plain_weights", None):
        model.load_state_dict(plain, strict=False)
    if patched := getattr(patcher, "patched", dict)():
        model.__dict__["plain_weights"] = {key: model.state_dict()[key].clone() for key in patched}
        model.load_state_dict(patched, strict=False)


def free_memory(memory_required, device, keep_loaded=()):
    LOADED[:] = [loaded for loaded in LOADED if loaded.model.load_device != device or loaded in keep_loaded]


def throw_exception_if_processing_interrupted():
    if STATE.cancel_after is not None and len(STATE.progress) >= STATE.cancel_after:
        STATE.cancel_after = None
        raise Cancelled()


def bytes_of(module):
    return sum(parameter.nbytes for parameter in module.parameters())


class ModelPatcher:
    def __init__(self, model, load_device, offload_device):
        self.model, self.load_device, self.offload_device = model, load_device, offload_device
        self.model_options = {"transformer_options": {}}
        self.patches, self.attachments = {}, {}

    @property
    def backup(self):
        plain = self.model.__dict__.get("plain_weights", {})
        return {key: types.SimpleNamespace(weight=weight) for key, weight in plain.items()}

    def partially_load(self, device_to, extra_memory=0, force_patch_weights=False):
        """Layer by layer as long as memory lasts; what belongs to no layer comes with the whole alone."""
        if extra_memory > bytes_of(self.model):
            self.model.to(device_to)
            return
        for layer in self.model.modules():
            if not list(layer.children()) and bytes_of(layer) <= extra_memory:
                extra_memory -= bytes_of(layer)
                layer.to(device_to)

    def clone(self):
        other = type(self)(self.model, self.load_device, self.offload_device)
        inner = dict(self.model_options["transformer_options"])
        other.model_options = {**self.model_options, "transformer_options": inner}
        other.patches = {key: list(patches) for key, patches in self.patches.items()}
        other.attachments = dict(self.attachments)
        return other

    def is_clone(self, other):
        return self.model is other.model

    def set_attachments(self, key, attachment):
        self.attachments[key] = attachment

    def get_attachment(self, key):
        return self.attachments.get(key)

    def add_patches(self, patches, strength_patch=1.0):
        own = self.model.state_dict()
        taken = [place for place in patches if place[0] in own]
        for place in taken:
            self.patches.setdefault(place[0], []).append((strength_patch, place[1], patches[place]))
        return taken

    def patched(self):
        """Weights with the patches, by name."""
        own, result = self.model.state_dict(), {}
        for key, patches in self.patches.items():
            weight = own[key].detach().clone()
            for strength, (dim, start, count), patch in patches:
                rows = weight.narrow(dim, start, count)
                if patch[0] == "diff":
                    rows += strength * patch[1][0]
                    continue
                up, down, alpha, magnitude = patch
                whole = rows + (alpha / len(down) * up.flatten(1) @ down.flatten(1)).reshape(rows.shape)
                if magnitude is not None:
                    whole *= magnitude / whole.flatten(1).norm(dim=1).view(-1, *[1] * (whole.ndim - 1))
                rows += strength * (whole - rows)
            result[key] = weight
        return result


def load_lora(lora, to_load):
    return {
        place: (
            *(lora[f"{x}.{key}"] for key in ("lora_up.weight", "lora_down.weight")),
            lora[f"{x}.alpha"].item(),
            lora.get(f"{x}.dora_scale"),
        )
        for x, place in to_load.items()
    }


# Layers ---------------------------------------------------------------------------------------------------------


class Layers:
    Linear, Conv1d, Conv2d, LayerNorm = (
        type(base.__name__, (base,), {"forward": lambda self, x, base=base: _cast_forward(base, self, x)})
        for base in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.LayerNorm)
    )


def _cast_forward(base, layer, x):
    weight, bias = layer.weight.to(x.device, x.dtype), layer.bias.to(x.device, x.dtype)
    if base is nn.Linear:
        return F.linear(x, weight, bias)
    if base is nn.LayerNorm:
        return F.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)
    return (F.conv1d if base is nn.Conv1d else F.conv2d)(x, weight, bias, layer.stride)


def multiplied(weight, scale, mark):
    """A quantised weight as a whole, read from its mark; the rotation is written as a sum over a group of columns."""
    settings, weight = json.loads(mark.numpy().tobytes()), weight.float() * scale
    if not settings.get("convrot"):
        return weight
    group, matrix = settings["convrot_groupsize"], torch.ones(1, 1)
    while len(matrix) < group:
        quarter = torch.tensor([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]) / 2
        matrix = torch.kron(quarter, matrix)
    return torch.einsum("rgi,oi->rgo", weight.unflatten(1, (-1, group)), matrix).flatten(1)


class ScaledLayers(Layers):
    """Layers that take a weight in fp8 or int8 with its scale, `<layer>.weight_scale` and `<layer>.comfy_quant`."""

    class Linear(Layers.Linear):
        def _load_from_state_dict(self, state, prefix, metadata, strict, missing, unexpected, errors):
            mark = state.pop(prefix + "comfy_quant", None)
            scale = state.pop(prefix + "weight_scale", None)
            if scale is not None:
                state[prefix + "weight"] = multiplied(state[prefix + "weight"], scale, mark)
            super()._load_from_state_dict(state, prefix, metadata, strict, missing, unexpected, errors)


def pick_operations(weight_dtype, compute_dtype, load_device=None, model_config=None):
    return ScaledLayers if getattr(model_config, "quant_config", None) else Layers


def optimized_attention(q, k, v, heads, skip_reshape=False, skip_output_reshape=False, transformer_options=None):
    assert skip_reshape and skip_output_reshape and q.shape[1] == heads
    override = (transformer_options or {}).get("optimized_attention_override", lambda own, *args, **kwargs: own(*args))
    kwargs = dict(skip_reshape=True, skip_output_reshape=True, transformer_options=transformer_options)
    own = lambda q, k, v, heads, **kwargs: F.scaled_dot_product_attention(q, k, v)  # noqa: E731
    return override(own, q, k, v, heads, **kwargs)


# The model ------------------------------------------------------------------------------------------------------


class LatentFormat:
    scale_factor = 1.0
    latent_rgb_factors = latent_rgb_factors_bias = None

    def process_in(self, latent):
        return latent * self.scale_factor

    def process_out(self, latent):
        return latent / self.scale_factor


class BASE:
    def process_unet_state_dict_for_saving(self, state_dict):
        return {f"model.diffusion_model.{name}": tensor for name, tensor in state_dict.items()}

    unet_config, sampling_settings, optimizations = {}, {}, {"fp8": False}
    latent_format, quant_config, custom_operations, manual_cast_dtype = LatentFormat, None, None, None

    def __init__(self, unet_config):
        self.unet_config, self.latent_format = dict(unet_config), self.latent_format()

    def set_inference_dtype(self, dtype, manual_cast_dtype):
        self.unet_config["dtype"], self.manual_cast_dtype = dtype, manual_cast_dtype


class ModelSamplingDiscrete(nn.Module):
    def __init__(self, config):
        super().__init__()
        s = config.sampling_settings
        betas = torch.linspace(s["linear_start"] ** 0.5, s["linear_end"] ** 0.5, s["timesteps"], dtype=torch.float64)
        a = (1 - betas**2).cumprod(0).sqrt()
        a = (a - a[-1]) * a[0] / (a[0] - a[-1])
        a[-1] = 4.8973451890853435e-08**0.5  # the host's word for zero
        self.register_buffer("sigmas", (torch.sqrt(1 - a * a) / a).float(), persistent=False)

    def timestep(self, sigma):
        return (self.sigmas.log()[:, None] - sigma.log()).abs().argmin(dim=0)


class V_PREDICTION:
    def calculate_input(self, sigma, x):
        return x / torch.sqrt(1 + sigma.view(-1, *[1] * (x.ndim - 1)) ** 2)


class ModelType:
    V_PREDICTION = "v_prediction"


class BaseModel(nn.Module):
    def __init__(self, model_config, model_type, device=None, unet_model=None):
        super().__init__()
        self.model_config = model_config
        self.latent_format, self.manual_cast_dtype = model_config.latent_format, model_config.manual_cast_dtype
        layers = model_config.custom_operations or pick_operations(None, None, model_config=model_config)
        self.diffusion_model = unet_model(**model_config.unet_config, device=device, operations=layers)
        self.model_sampling = ModelSamplingDiscrete(model_config)

    def get_dtype_inference(self):
        return self.manual_cast_dtype or self.diffusion_model.dtype

    def process_latent_in(self, latent):
        return self.latent_format.process_in(latent)

    def process_latent_out(self, latent):
        return self.latent_format.process_out(latent)

    def extra_conds(self, **kwargs):
        conds = {"c_concat": CONDRegular(self.concat_cond(**kwargs))}
        if kwargs.get("cross_attn") is not None:
            conds["c_crossattn"] = CONDRegular(kwargs["cross_attn"])
        return conds

    def apply_model(self, x, t, c_concat=None, transformer_options=None, **kwargs):
        return self._apply_model(x, t, c_concat, transformer_options=transformer_options, **kwargs)

    def _apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        dtype = self.get_dtype_inference()
        seen = torch.cat((self.model_sampling.calculate_input(t, x), c_concat.to(x)), dim=1).to(dtype)
        for name, value in kwargs.items():  # tensors are cast, all but integers
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                kwargs[name] = value.to(dtype)
        time = self.process_timestep(self.model_sampling.timestep(t).float(), **kwargs)
        out = self.diffusion_model(seen, time, context=None, transformer_options=transformer_options, **kwargs)
        return self.model_sampling.calculate_denoised(t, out.float(), x)


class CONDRegular:
    def __init__(self, cond):
        self.cond = cond

    def process_cond(self, batch_size, **kwargs):
        return type(self)(self.cond.repeat(batch_size // len(self.cond), *[1] * (self.cond.ndim - 1)))

    def can_concat(self, other):
        return self.cond.shape == other.cond.shape

    def concat(self, others):
        return torch.cat([self.cond, *(other.cond for other in others)])


class WrappersMP:
    DIFFUSION_MODEL = "diffusion_model"


def get_all_wrappers(kind, options):
    return options.get("wrappers", {}).get(kind, [])


class WrapperExecutor:
    @classmethod
    def new_class_executor(cls, function, owner, wrappers):
        executor = cls()
        executor.function, executor.wrappers = function, wrappers
        return executor

    def execute(self, *args, **kwargs):
        function = self.function
        for wrapper in reversed(self.wrappers):
            function = (lambda inner, outer: lambda *a, **k: outer(inner, *a, **k))(function, wrapper)
        return function(*args, **kwargs)


# Sampling -------------------------------------------------------------------------------------------------------


class Sampler:
    pass


def calc_cond_batch(model, conds, x, timestep, model_options):
    """All branches that can be joined, in one call, the last first as the host has it; then the others."""
    results: list = [None] * len(conds)
    waiting = list(range(len(conds)))
    ready = [{k: c.process_cond(x.shape[0], area=None) for k, c in cond[0]["model_conds"].items()} for cond in conds]
    while waiting:
        first = waiting.pop()
        group = [first] + [
            i for i in reversed(waiting) if all(c.can_concat(ready[i][k]) for k, c in ready[first].items())
        ]
        waiting = [i for i in waiting if i not in group]
        joined = {k: c.concat([ready[i][k] for i in group[1:]]) for k, c in ready[first].items()}
        n = len(group)
        out = model.apply_model(
            torch.cat([x] * n),
            torch.cat([timestep] * n),
            transformer_options=model_options["transformer_options"],
            **joined,
        ).chunk(n)
        for i, result in zip(group, out, strict=True):
            results[i] = result
    return results


class CFGGuider:
    def __init__(self, model_patcher):
        self.model_patcher, self.model_options = model_patcher, model_patcher.model_options
        self.original_conds, self.cfg = {}, 1.0

    def inner_set_conds(self, conds):
        for name, cond in conds.items():
            self.original_conds[name] = [{**extra, "cross_attn": text, "model_conds": {}} for text, extra in cond]

    def __call__(self, x, timestep, model_options=None, seed=None):
        return self.predict_noise(x, timestep, model_options, seed)

    def inner_sample(self, noise, latent_image, device, sampler, sigmas, denoise_mask, callback, disable_pbar, seed):
        if torch.count_nonzero(latent_image) > 0:
            latent_image = self.inner_model.process_latent_in(latent_image)
        for cond in (c for branch in self.conds.values() for c in branch):
            values = {key: value for key, value in cond.items() if key != "model_conds"}
            cond["model_conds"] = self.inner_model.extra_conds(**values, noise=noise, device=device)
        inner = {**self.model_options["transformer_options"], "sample_sigmas": sigmas}
        options = {**self.model_options, "transformer_options": inner}
        arguments = {"model_options": options, "seed": seed}
        samples = sampler.sample(self, sigmas, arguments, callback, noise, latent_image, denoise_mask, disable_pbar)
        return self.inner_model.process_latent_out(samples.float())

    def sample(
        self, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, disable_pbar=False, seed=None
    ):
        """Leaves `conds` and `inner_model` on the object when it is cancelled, as the host does."""
        self.conds = {name: [dict(cond) for cond in conds] for name, conds in self.original_conds.items()}
        self.inner_model = self.model_patcher.model
        shapes: dict = {}
        for cond in (cond for conds in self.conds.values() for cond in conds):
            for name, shape in self.inner_model.extra_conds_shapes(**cond).items():
                shapes.setdefault(name, []).append(shape)
        self.inner_model.memory_required(list(noise.shape), cond_shapes=shapes)
        load_models_gpu([self.model_patcher])
        arguments = (noise, latent_image, CPU, sampler, sigmas, denoise_mask, callback, disable_pbar, seed)
        output = self.inner_sample(*arguments)
        del self.conds, self.inner_model
        return output


# VAE and CLIP ---------------------------------------------------------------------------------------------------


class VAE:
    def __init__(self, sd=None):
        if not sd:
            logging.warning("WARNING: No VAE weights detected, VAE not initalized.")
        self.crop_input = True

    def encode(self, images):
        load_models_gpu([self.patcher])
        pixels = images.movedim(-1, 1).movedim(1, 0)[None] * 2 - 1
        return self.first_stage_model.encode(pixels.to(self.vae_dtype)).float()

    def decode(self, latent):
        load_models_gpu([self.patcher])
        frames = self.first_stage_model.decode(latent.to(self.vae_dtype)).float()
        return frames.add(1).div(2).clamp(0, 1).movedim(1, -1)


class T5XXLModel(nn.Module):
    def __init__(self, device="cpu", dtype=None, model_options=None):
        super().__init__()
        from transformers import T5Config, T5EncoderModel

        sizes = model_options["t5xxl_model_config"]
        config = T5Config(**sizes, feed_forward_proj="gated-gelu", dropout_rate=0.0)
        self.transformer = T5EncoderModel(config).eval()

    def load_sd(self, sd):
        for mark in [name for name in sd if name.endswith(".comfy_quant")]:
            layer = mark.removesuffix(".comfy_quant")
            whole = multiplied(sd[layer + ".weight"], sd[layer + ".weight_scale"], sd[mark])
            sd = {n: t for n, t in sd.items() if not n.startswith(layer)} | {layer + ".weight": whole}
        found = self.transformer.load_state_dict({n: t.float() for n, t in sd.items()}, strict=False)
        assert not found.unexpected_keys and set(found.missing_keys) <= {"encoder.embed_tokens.weight"}

    def encode_token_weights(self, tokens):
        ids = torch.tensor([[token for token, _ in line] for line in tokens])
        return self.transformer(input_ids=ids).last_hidden_state, None


class SD1ClipModel(nn.Module):
    def __init__(self, device="cpu", dtype=None, name=None, clip_model=None, model_options=None):
        super().__init__()
        self.name, self.inner = name, clip_model(device=device, dtype=dtype, model_options=model_options)
        self.dtypes = {dtype}


class CLIP:
    def __init__(self, target, parameters=0, state_dict=(), model_options=None):
        options = model_options or {}
        self.cond_stage_model = target.clip(dtype=options.get("dtype"), model_options=options)
        self.tokenizer = target.tokenizer(embedding_directory=None, tokenizer_data={})
        for tensors in state_dict:
            self.cond_stage_model.inner.load_sd(tensors)

    def tokenize(self, text):
        return self.tokenizer.tokenize_with_weights(text)

    def encode_from_tokens_scheduled(self, tokens):
        model = self.cond_stage_model
        cond, pooled = model.inner.encode_token_weights(tokens[model.name])
        return [[cond, {"pooled_output": pooled}]]


# Progress, files, server ----------------------------------------------------------------------------------------


class ProgressBar:
    def __init__(self, total):
        self.total = total

    def update_absolute(self, value, total=None, preview=None):
        STATE.progress.append((value, total or self.total))
        STATE.previewed += [preview] if preview else []
        throw_exception_if_processing_interrupted()


class ColourPreviewer:
    """A latent's first frame by the format's colours, as the host shows it."""

    def __init__(self, factors, bias):
        self.factors, self.bias = torch.tensor(factors), torch.tensor(bias)

    def decode_latent_to_preview_image(self, kind, latent):
        from PIL import Image

        shown = latent[0, :, 0].movedim(0, -1) @ self.factors + self.bias
        return kind, Image.fromarray(((shown + 1) / 2 * 255).clamp(0, 255).byte().numpy()), 512


def get_previewer(device, latent_format):
    """None where the user has previews off."""
    if STATE.previews:
        return ColourPreviewer(latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias)


def load_torch_file(path, safe_load=False):
    return torch.load(path, weights_only=True)


class FolderPaths(types.ModuleType):
    """The host's list of folders, over one models folder."""

    def __init__(self, models_dir: str):
        super().__init__("folder_paths")
        self.models_dir = models_dir
        self._kinds: dict[str, list[str]] = {}
        for kind in "diffusion_models checkpoints vae vae_approx text_encoders audio_encoders loras".split():
            self._kinds[kind] = [str(Path(models_dir) / kind)]

    def get_temp_directory(self):
        return str(Path(self.models_dir).parent / "temp")

    def get_input_directory(self):
        return str(Path(self.models_dir).parent / "input")

    def get_output_directory(self):
        return str(Path(self.models_dir).parent / "output")

    def get_annotated_filepath(self, name):
        for ending, folder in ((" [temp]", self.get_temp_directory()), (" [output]", self.get_output_directory())):
            if name.endswith(ending):
                return str(Path(folder) / name.removesuffix(ending))
        path = Path(self.get_input_directory(), name).resolve()
        if not path.is_relative_to(Path(self.get_input_directory()).resolve()):
            raise ValueError(f"Invalid file path: {name!r}")
        return str(path)

    def filter_files_content_types(self, files, content_types):
        return [name for name in files if (mimetypes.guess_type(name)[0] or "").split("/")[0] in content_types]

    def add_model_folder_path(self, kind, path):
        if path not in self._kinds.setdefault(kind, []):
            self._kinds[kind].append(path)

    def get_folder_paths(self, kind):
        return list(self._kinds[kind])

    def get_filename_list(self, kind):
        roots = map(Path, self._kinds[kind])
        return sorted({p.relative_to(root).as_posix() for root in roots for p in root.rglob("*") if p.is_file()})

    def get_full_path(self, kind, name):
        return next((str(Path(root) / name) for root in self._kinds[kind] if (Path(root) / name).is_file()), None)


class PromptServer:
    class instance:
        @staticmethod
        def send_progress_text(text, node_id):
            STATE.texts.append((text, node_id))


class InputImpl:
    class VideoFromFile:
        def __init__(self, file):
            self.file = file

        def get_stream_source(self):
            return self.file


def install(models_dir: str) -> None:
    """Put the host's modules where `import comfy...` finds them."""
    names = {
        "comfy.model_management": dict(
            get_torch_device=lambda: CPU,
            unet_offload_device=lambda: CPU,
            vae_device=lambda: CPU,
            vae_offload_device=lambda: CPU,
            text_encoder_device=lambda: CPU,
            text_encoder_offload_device=lambda: CPU,
            intermediate_device=lambda: CPU,
            vae_dtype=lambda device, allowed: torch.float32,
            should_use_bf16=lambda device: False,
            unet_dtype=lambda model_params, supported_dtypes, weight_dtype: torch.float32,
            unet_manual_cast=lambda dtype, device, supported: None if dtype == torch.float32 else torch.float32,
            load_models_gpu=load_models_gpu,
            free_memory=free_memory,
            current_loaded_models=LOADED,
            sage_attention_enabled=lambda: STATE.sage,
            supports_fp8_compute=lambda device=None: STATE.fp8_matmul,
            throw_exception_if_processing_interrupted=throw_exception_if_processing_interrupted,
            InterruptProcessingException=Cancelled,
        ),
        "comfy.model_patcher": dict(ModelPatcher=ModelPatcher),
        "comfy.ops": dict(pick_operations=pick_operations),
        "comfy.quant_ops": dict(
            QUANT_ALGOS=dict.fromkeys(("float8_e4m3fn", "float8_e5m2", "int8_tensorwise")), QuantizedTensor=()
        ),
        "comfy.ldm": {},
        "comfy.ldm.modules": {},
        "comfy.ldm.modules.attention": dict(optimized_attention=optimized_attention),
        "comfy.conds": dict(CONDRegular=CONDRegular),
        "comfy.latent_formats": dict(LatentFormat=LatentFormat),
        "comfy.model_base": dict(BaseModel=BaseModel, ModelType=ModelType),
        "comfy.model_sampling": dict(ModelSamplingDiscrete=ModelSamplingDiscrete, V_PREDICTION=V_PREDICTION),
        "comfy.supported_models_base": dict(BASE=BASE),
        "comfy.patcher_extension": dict(
            WrapperExecutor=WrapperExecutor, WrappersMP=WrappersMP, get_all_wrappers=get_all_wrappers
        ),
        "comfy.samplers": dict(CFGGuider=CFGGuider, Sampler=Sampler, calc_cond_batch=calc_cond_batch),
        "comfy.sd": dict(VAE=VAE, CLIP=CLIP),
        "comfy.sd1_clip": dict(SD1ClipModel=SD1ClipModel),
        "comfy.text_encoders": {},
        "comfy.text_encoders.sd3_clip": dict(T5XXLModel=T5XXLModel, __file__=__file__),
        "comfy.lora": dict(load_lora=load_lora),
        "comfy.utils": dict(ProgressBar=ProgressBar, load_torch_file=load_torch_file),
        "comfy_api": {},
        "comfy_api.latest": dict(InputImpl=InputImpl),
        "latent_preview": dict(get_previewer=get_previewer, MAX_PREVIEW_RESOLUTION=512),
        "comfy.cli_args": dict(args=STATE, LatentPreviewMethod=LatentPreviewMethod),
        "server": dict(PromptServer=PromptServer),
        "comfy_execution": {},
        "comfy_execution.utils": dict(get_executing_context=lambda: STATE.executing),
    }
    sys.modules["comfy"] = types.ModuleType("comfy")
    sys.modules["folder_paths"] = FolderPaths(models_dir)
    sys.modules["folder_paths"].__spec__ = ModuleSpec("folder_paths", None)
    for name, content in names.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        sys.modules[name] = module
        parent, _, leaf = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], leaf, module)
