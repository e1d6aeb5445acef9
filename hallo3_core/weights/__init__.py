"""Reads and writes weight files safely, and identifies their names, parts and kinds. Never runs code from a file."""
