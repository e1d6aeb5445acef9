"""The official release and what is made from it: layout, detection, inspection, conversion, download, LoRA."""
