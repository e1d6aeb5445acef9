"""The command line from any folder: `python /path/to/ComfyUI-Hallo3/hallo3.py download ...`

`python -m hallo3_core` needs this folder on Python's path, which the current one is not always: not with `python -P` or
`-I`, and not in Pythons that are set up so, as in ComfyUI's portable build for Windows.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from hallo3_core.cli.main import entry

    entry()
