"""Authentication, rate limits and permissions of callers. May use: sets, store, errors, setting_readers."""
