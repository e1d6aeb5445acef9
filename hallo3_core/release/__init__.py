"""The official release and files made from it: layout, detection, inspection, conversion, download, LoRA."""
