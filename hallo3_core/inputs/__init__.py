"""Reads and checks the user's inputs: portrait, face, recording, audio features, prompt."""
