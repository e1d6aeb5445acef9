"""From inputs to clips: options, networks, a film's constant conditions, the order of the stages, fallbacks."""
