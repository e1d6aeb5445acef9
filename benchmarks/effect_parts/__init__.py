"""The effect of each condition of the toy release on a film, for unseen people, voices and prompts."""
