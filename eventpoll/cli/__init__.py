"""The operator's commands. May use: service, web, worker, access, delivery, sets, store, errors."""
