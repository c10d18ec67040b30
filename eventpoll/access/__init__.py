"""Who is asking, how often, and what they may. May use: store, errors."""
