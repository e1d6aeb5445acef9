"""`python -m hallo3_core`"""

from .cli.main import entry

entry()
