"""The only code that knows ComfyUI: its models, memory, folders, progress and server."""
