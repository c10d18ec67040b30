"""Work outside of requests: the inbox. May use: delivery, sets, store, errors."""
