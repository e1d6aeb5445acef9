"""From inputs to clips: options, networks, what is constant over a film, the order of the stages, fallbacks."""
