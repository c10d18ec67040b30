"""Redis: one method for each Lua command, keys, records, errors. May use: errors, redis_url."""
