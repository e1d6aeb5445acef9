"""What each condition of the toy release does to a film, on people, voices and prompts that it never saw."""
