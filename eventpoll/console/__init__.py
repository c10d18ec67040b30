"""Web pages for the bank's operators. May use: api, service, web, delivery, sets, store, errors."""
