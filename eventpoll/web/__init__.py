"""How HTTP is spoken: bodies, answers, the request log, gunicorn's worker.

May use: access, sets, store, errors, settings.
"""
