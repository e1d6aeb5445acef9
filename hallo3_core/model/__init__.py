"""The networks. They are stateless: named methods compute what is constant over steps, clips or films, and callers pass
it in."""
