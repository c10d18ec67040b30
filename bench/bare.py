"""Bare Flask, as a measure: one body read with get_json, one answer written with jsonify, and nothing between."""

from types import SimpleNamespace

from flask import Flask, Response, jsonify, request

from bench.sets import secevent

app = Flask(__name__)
# gunicorn.conf.py asks the service to let its held polls go when the worker is to end. Here there are none.
app.extensions["eventpoll"] = SimpleNamespace(
    transmitter=SimpleNamespace(waiting=SimpleNamespace(release=lambda: None))
)

ANSWERS = {
    page: {"sets": dict(map(secevent, range(page))), "moreAvailable": page > 0} for page in (0, 1, 10, 100, 1000)
}


@app.get("/healthz")
@app.get("/")
def hello() -> str:
    """The least that Flask does."""
    return "Hello, World!"


@app.post("/page/<int:page>")
def page(page: int) -> Response:
    """An answer as large as a poll's with so many SETs."""
    request.get_json()
    return jsonify(ANSWERS[page])
