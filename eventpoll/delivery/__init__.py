"""The rules: push, poll, hold, batch, and the settings of a stream. May use: sets, store, errors."""
