"""The operator's pages. May use: api, service, web, delivery, store, errors."""
