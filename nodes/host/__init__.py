"""The only code that imports ComfyUI: its models, memory, folders, progress and server."""
