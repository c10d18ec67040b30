"""Who is asking, how often, and what they may. May use: sets, store, errors, setting_readers."""
