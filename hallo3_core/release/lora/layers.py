"""The denoiser's layers by the names that LoRA files give them, one map for the command line and the ComfyUI node."""

from __future__ import annotations

from ...model.config import Shape, TransformerConfig
from ...model.denoiser import Denoiser
from .patch import Target

_PLAIN = {
    "patch_embed.proj": "patch_embed",
    "patch_embed.text_proj": "text_embed",
    "time_embedding.linear_1": "modulation.time.0",
    "time_embedding.linear_2": "modulation.time.2",
    "norm_out.linear": "head_modulation",
    "proj_out": "head",
}
_BLOCK = {
    "attn1.to_out.0": "self_attention.out",
    "attn1.norm_q": "query_norm",
    "attn1.norm_k": "key_norm",
    "ff.net.0.proj": "mlp.up",
    "ff.net.2": "mlp.down",
}


def weight_shapes(config: TransformerConfig) -> dict[str, Shape]:
    """Every weight of the denoiser that a LoRA may change, in our names."""
    model = Denoiser(config, device="meta")
    return {name: tuple(p.shape) for name, p in model.named_parameters() if name.endswith(".weight")}


def lora_targets(config: TransformerConfig) -> dict[str, tuple[Target, ...]]:
    """Layer name, diffusers' or ours, without prefix and `.weight` -> where its rows go in our tensors.

    Two fused matrices make this more than a renaming. Queries, keys and values are one matrix here. A layer's
    modulation is also one matrix: the video's six vectors (shift, scale, gate of attention, then of the MLP), then the
    text's six. Diffusers has two matrices, one for attention and one for the MLP, each with the video's three vectors,
    then the text's three.
    """
    shapes, d = weight_shapes(config), config.hidden
    targets = {name.removesuffix(".weight"): (Target(name, 0, shape[0]),) for name, shape in shapes.items()}
    for theirs, ours in _PLAIN.items():
        targets[theirs] = targets[ours]
    for n in range(config.layers):
        block, modulation = f"transformer_blocks.{n}.", f"modulation.blocks.{n}.weight"
        for theirs, ours in _BLOCK.items():
            targets[block + theirs] = targets[f"blocks.{n}.{ours}"]
        for i, kind in enumerate("qkv"):
            targets[f"{block}attn1.to_{kind}"] = (Target(f"blocks.{n}.self_attention.qkv.weight", i * d, d),)
        for i, norm in enumerate(("norm1", "norm2")):
            video = Target(modulation, 3 * i * d, 3 * d)
            text = Target(modulation, (6 + 3 * i) * d, 3 * d, their_start=3 * d)
            targets[f"{block}{norm}.linear"] = (video, text)
    return targets
