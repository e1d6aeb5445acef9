"""The pack as the host sees it: keys, sockets, tooltips, a quick import, and no host call that was not reviewed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT, HERE = Path(__file__).parents[2], Path(__file__).parent

# Every name of the host that the pack may use. Each is in ComfyUI 0.8.0 and 0.33.0; what came later is asked for with
# getattr. The fake host has these and no others.
REVIEWED = {
    "comfy.cli_args": {"LatentPreviewMethod", "args"},
    "comfy.conds": {"CONDRegular"},
    "comfy.latent_formats": {"LatentFormat"},
    "comfy.ldm.modules.attention": {"optimized_attention"},
    "comfy.lora": {"load_lora"},
    "comfy.model_base": {"BaseModel", "ModelType"},
    "comfy.model_management": {
        "InterruptProcessingException",
        "current_loaded_models",
        "free_memory",
        "get_torch_device",
        "intermediate_device",
        "load_models_gpu",
        "sage_attention_enabled",
        "supports_fp8_compute",
        "text_encoder_device",
        "text_encoder_offload_device",
        "throw_exception_if_processing_interrupted",
        "should_use_bf16",
        "unet_dtype",
        "unet_manual_cast",
        "unet_offload_device",
        "vae_device",
        "vae_dtype",
        "vae_offload_device",
    },
    "comfy.model_patcher": {"CoreModelPatcher", "ModelPatcher"},
    "comfy.model_sampling": {"ModelSamplingDiscrete", "V_PREDICTION"},
    "comfy.ops": {"pick_operations"},
    "comfy.patcher_extension": {"WrapperExecutor", "WrappersMP", "get_all_wrappers"},
    "comfy.quant_ops": {"QUANT_ALGOS", "QuantizedTensor"},
    "comfy.samplers": {"CFGGuider", "Sampler", "calc_cond_batch"},
    "comfy.sd": {"CLIP", "VAE"},
    "comfy.sd1_clip": {"SD1ClipModel"},
    "comfy.supported_models_base": {"BASE"},
    "comfy.text_encoders.sd3_clip": {"T5XXLModel", "__file__"},
    "comfy.utils": {"ProgressBar", "load_torch_file"},
    "comfy_api.latest": {"InputImpl"},
    "comfy_execution.utils": {"get_executing_context"},
    "folder_paths": {
        "add_model_folder_path",
        "filter_files_content_types",
        "get_annotated_filepath",
        "get_filename_list",
        "get_folder_paths",
        "get_full_path",
        "get_input_directory",
        "get_output_directory",
        "get_temp_directory",
        "models_dir",
    },
    "latent_preview": {"MAX_PREVIEW_RESOLUTION", "get_previewer"},
    "server": {"PromptServer"},
}
HOST = ("comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "latent_preview", "nodes", "server")
LATER = {"CoreModelPatcher"}  # than the oldest host, so asked for with getattr


def host_uses(path: Path) -> set[tuple[str, str]]:
    """The names of the host's modules that a file uses: (module, name)."""
    tree = ast.parse(path.read_text())
    aliases, uses = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.name.split(".")[0] in HOST:
                    aliases[name.asname or name.name] = name.name
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module.split(".")[0] in HOST:
            uses |= {(node.module, name.name) for name in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (module := aliases.get(ast.unparse(node.value))):
            uses.add((module, node.attr))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and len(node.args) > 1:
            if (module := aliases.get(ast.unparse(node.args[0]))) and isinstance(node.args[1], ast.Constant):
                uses.add((module, node.args[1].value))
    packages = {name.rpartition(".")[0] for name in REVIEWED}
    return {(module, name) for module, name in uses if f"{module}.{name}" not in REVIEWED.keys() | packages}


def test_every_host_call_is_reviewed_and_every_reviewed_one_is_used():
    used = set().union(*(host_uses(path) for path in (ROOT / "nodes").rglob("*.py")))
    assert used == {(module, name) for module, names in REVIEWED.items() for name in names}


def test_only_the_host_layer_knows_the_host():
    for path in ROOT.glob("hallo3_core/**/*.py"):
        assert not host_uses(path), path
    for path in (ROOT / "nodes").glob("*.py"):
        assert not host_uses(path), path


def test_the_host_has_what_is_used(pack):
    import importlib

    pack()
    for module, names in REVIEWED.items():
        for name in names - LATER:
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


@pytest.fixture(scope="module")
def nodes(pack):
    return pack().NODE_CLASS_MAPPINGS


def test_every_node_has_a_name_and_explains_itself(pack, nodes):
    names = pack().NODE_DISPLAY_NAME_MAPPINGS
    assert nodes.keys() == names.keys() and len(set(names.values())) == len(names)
    for key, node in nodes.items():
        assert key.startswith("Hallo3") and node.__name__ == key
        assert node.CATEGORY.split("/")[0] == "Hallo3"
        assert len(node.DESCRIPTION) > 20
        assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES) == len(node.OUTPUT_TOOLTIPS)
        assert callable(getattr(node, node.FUNCTION))


def test_every_input_has_a_tooltip_and_reaches_the_function(nodes):
    import inspect

    for key, node in nodes.items():
        inputs = node.INPUT_TYPES()
        for name, (kind, options) in {**inputs.get("required", {}), **inputs.get("optional", {})}.items():
            assert len(options["tooltip"]) > 10, f"{key}.{name}"
            assert isinstance(kind, (str, list)), f"{key}.{name}"
        parameters = inspect.signature(getattr(node, node.FUNCTION)).parameters
        declared = {name for group in inputs.values() for name in group}
        assert declared == parameters.keys() - {"self"}, key
        assert all(parameters[name].default is not inspect.Parameter.empty for name in inputs.get("optional", {}))


CATALOGUE = {
    "Hallo3ModelLoader": ("MODEL",),
    "Hallo3ReferenceNetLoader": ("HALLO3_REFERENCE_NET",),
    "Hallo3LoraLoader": ("MODEL", "HALLO3_REFERENCE_NET"),
    "Hallo3VAELoader": ("VAE",),
    "Hallo3TextEncoderLoader": ("CLIP",),
    "Hallo3Wav2VecLoader": ("HALLO3_WAV2VEC",),
    "Hallo3FaceAnalysisLoader": ("HALLO3_FACE_ANALYSIS",),
    "Hallo3SampleClip": ("LATENT",),
    "Hallo3LongVideo": ("VIDEO",),
    "Hallo3SeparateVocals": ("AUDIO", "AUDIO"),
    "Hallo3GuidanceGrid": ("IMAGE",),
    "Hallo3Guider": ("GUIDER", "LATENT"),
    "Hallo3Scheduler": ("SIGMAS",),
    "Hallo3Portrait": ("IMAGE",),
    "Hallo3Voice": ("AUDIO",),
    "Hallo3SampleInputs": ("IMAGE", "AUDIO"),
}


def test_keys_and_sockets_are_those_that_workflows_depend_on(nodes):
    assert CATALOGUE.items() <= {key: node.RETURN_TYPES for key, node in nodes.items()}.items()


def test_importing_the_pack_loads_nothing_heavy(tmp_path):
    """Behind torch, which the host has loaded long before: nothing but this pack."""
    code = f"""
import sys, torch
sys.path.insert(0, r"{HERE}")
import fake_host, importing
fake_host.install(r"{tmp_path}")
before = set(sys.modules)
pack = importing.import_pack(r"{ROOT}")
found = {{name.split(".")[0] for name in set(sys.modules) - before}} - sys.stdlib_module_names
assert pack.NODE_CLASS_MAPPINGS and found == {{importing.PACK}}, found
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert not result.stderr


WITHOUT = """
import importlib, sys

sys.path.insert(0, {here!r})
import fake_host, importing

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

fake_host.install({models!r})
sys.meta_path.insert(0, Absent())
pack = importing.import_pack({root!r})
for node in pack.NODE_CLASS_MAPPINGS.values():
    node.INPUT_TYPES()
needs = importlib.import_module(importing.PACK + ".nodes.needs")
text = needs.describe(needs.find_needs("Hallo3SeparateVocals", dict(model="auto")))
assert all(name in text for name in {named!r}), text
print(*sorted(pack.NODE_CLASS_MAPPINGS))
"""
OPTIONAL = {"onnxruntime", "onnx", "cv2", "insightface", "audio_separator", "sageattention"}
LATE = {"diffusers", "transformers", "sentencepiece", "safetensors", "huggingface_hub", "av", "PIL", "tqdm", "einops"}


@pytest.mark.parametrize("packages", [OPTIONAL, OPTIONAL | LATE], ids=["optional", "all"])
def test_a_missing_package_hides_no_node(nodes, tmp_path, packages):
    """A missing package is reported by the node that needs it, when it runs, together with all others."""
    named = {"onnxruntime", "insightface", "audio-separator"} | (packages & LATE - {"PIL", "tqdm", "einops"})
    code = WITHOUT.format(packages=packages, named=named, models=str(tmp_path), here=str(HERE), root=str(ROOT))
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert result.stdout.split() == sorted(nodes), result.stderr
