"""The toy release: the official layout and names at toy sizes."""
