"""HTTP: bodies, answers, connections, routes, the request log, gunicorn's worker.

May use: access, sets, store, errors, settings.
"""
