"""ComfyUI-Hallo3: talking portraits of any length."""

from importlib.util import find_spec

NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS = {}, {}
WEB_DIRECTORY = "./web"

if find_spec("folder_paths"):  # ComfyUI imports this; so does a test runner that finds its tests below it
    from .nodes import mappings
    from .nodes.host.files import register_folder
    from .nodes.host.notice import register_notice

    register_folder()
    register_notice()
    NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS = mappings()

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
