"""`python -m hallo3_core`"""

from .cli import entry

entry()
