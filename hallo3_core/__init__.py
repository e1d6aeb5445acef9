"""Hallo3 in pure torch: a portrait, a recording and a sentence become a talking film.

Nothing heavy is imported here; take what you need from the modules: `pipeline` knows the order of things.
"""

__version__ = "0.1.0"
