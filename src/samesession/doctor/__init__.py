"""``samesession doctor``: what an engine is like, and what to do about it; cli prints it."""
