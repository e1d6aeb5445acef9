"""Writes frames and sound to an mp4, clip by clip, and keeps finished clips on disk."""
