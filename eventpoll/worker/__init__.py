"""What goes on without a request: the inbox. May use: delivery, sets, store, errors."""
