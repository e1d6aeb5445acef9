"""The networks, stateless: what is constant over steps, clips or films is computed by named methods and passed in."""
