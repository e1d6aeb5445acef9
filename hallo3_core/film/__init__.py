"""From frames and sound to an mp4, clip by clip, with finished clips kept on disk."""
