"""The operator's pages. May use: api, service, web, delivery, sets, store, errors."""
