"""Where the processor time of an empty poll and of a push goes: `.venv/bin/python -m bench.profile`. No sockets but the
store's, no gunicorn: what the application itself costs, step by step. Processor time, medians of many rounds."""

from gevent import monkey

monkey.patch_all()

import base64  # noqa: E402
import io  # noqa: E402
import json  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import redis  # noqa: E402
from flask import Flask, jsonify, request  # noqa: E402
from joserfc import jws  # noqa: E402

from app import create_app  # noqa: E402
from bench.servers import Programs, Redis  # noqa: E402
from bench.service import key  # noqa: E402
from bench.sets import event, jti, payload, secevent  # noqa: E402
from eventpoll.access.door import hash_of  # noqa: E402
from eventpoll.delivery.batch import push_lines  # noqa: E402
from eventpoll.sets.event import Signed, read_line  # noqa: E402
from eventpoll.sets.signed import REGISTRY  # noqa: E402
from eventpoll.settings import Config  # noqa: E402

BODY = b'{"returnImmediately":true}'
ROUNDS, TURNS = 21, 300
BATCHES, LINES = 11, 500


def environ(headers: dict[str, str]) -> dict[str, Any]:
    """What gunicorn would hand over."""
    return {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/events",
        "SCRIPT_NAME": "",
        "QUERY_STRING": "",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(BODY)),
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(BODY),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        **headers,
    }


def bare() -> Flask:
    """What there is to compare with: the same body read, an answer of the same size."""
    app = Flask("bare")

    @app.post("/events")
    def events() -> Any:
        request.get_json()
        return jsonify({"sets": {}, "moreAvailable": False})

    return app


def called(app: Any, headers: dict[str, str]) -> Callable[[], None]:
    """A whole request, without a server around it."""

    def call() -> None:
        answer = app(environ(headers), lambda status, headers, error=None: None)
        b"".join(answer)
        if hasattr(answer, "close"):
            answer.close()

    return call


def steps(app: Flask, headers: dict[str, str]) -> dict[str, Callable[[], Any]]:
    """The parts of a poll, each alone, inside a request."""
    service = app.extensions["eventpoll"]
    profile = service.profiles[0]
    app.request_context(environ(headers)).push()
    asked = profile.poll({"returnImmediately": True})
    proof = hash_of("secret")
    answer = service.transmitter.poll("tpp", asked, profile="r", proof=proof)

    def read() -> None:
        request.environ["wsgi.input"].seek(0)
        request.__dict__.pop("stream", None)
        profile.read(request)

    return {
        "who asks (auth)": lambda: service.door.caller(request),
        "read the body, JSON": read,
        "check it (marshmallow)": lambda: profile.poll({"returnImmediately": True}),
        "the rules, and Redis and back": lambda: service.transmitter.poll("tpp", asked, profile="r", proof=proof),
        "write the answer": lambda: profile.write(answer, asked),
    }


def microseconds(what: Callable[[], Any]) -> float:
    """Processor time of this process for one turn."""
    begun = time.process_time()
    for _ in range(TURNS):
        what()
    return (time.process_time() - begun) / TURNS * 1e6


def pushes(app: Flask, client: redis.Redis) -> Iterator[tuple[str, float, float]]:
    """What a SET or an event costs on its way in: microseconds of this process and of Redis, for each."""
    transmitter = app.extensions["eventpoll"].transmitter
    signed = (secevent(number, "p")[1] for number in range(10**9))
    line, claims, header = event(), payload(jti(1)), {"alg": "PS256", "typ": "secevent+jwt", "kid": "bench-1"}

    def batch(lines: list[bytes]) -> None:
        for told in push_lines(transmitter, "tpp", lines):
            assert all(result["status"] in (201, 202) for result in told), told

    def each(what: Callable[[str], object]) -> Callable[[list[str]], object]:
        return lambda texts: [what(text) for text in texts]

    ways: dict[str, Callable[[list[str]], object]] = {
        "a signed SET, alone": each(lambda text: transmitter.push("tpp", Signed(text))),
        "a signed SET, of a batch": lambda texts: batch([text.encode() for text in texts]),
        "an event, of a batch: read, signed with PS256, queued": lambda texts: batch([line] * len(texts)),
        "– read: JSON, marshmallow": each(lambda _: read_line(line)),
        "– the signature: joserfc": each(
            lambda _: jws.serialize_compact(header, claims, key("PS256"), registry=REGISTRY)
        ),
        "– the settings that minting needs": each(lambda _: transmitter.store.minting("tpp")),
        "– a stream's whole status, in place of them": each(lambda _: transmitter.store.status("tpp")),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(BATCHES):
        for name, way in ways.items():
            texts = [next(signed) for _ in range(LINES)]
            begun, theirs = time.process_time(), _redis_seconds(client)
            way(texts)
            ours = time.process_time() - begun
            found[name].append((ours / LINES * 1e6, (_redis_seconds(client) - theirs) / LINES * 1e6))
    for name, times in found.items():
        yield name, statistics.median(one for one, _ in times), statistics.median(other for _, other in times)


def _redis_seconds(client: redis.Redis) -> float:
    told: Any = client.info("cpu")
    return float(told["used_cpu_user"] + told["used_cpu_sys"])


def main() -> None:
    """Print the tables."""
    programs = Programs()
    try:
        with tempfile.TemporaryDirectory() as directory:
            server = Redis(programs, Path(directory))
            signing = json.dumps({"keys": [key("PS256").as_dict(private=True)]})
            settings = {"EVENTPOLL_SIGNING_KEYS": signing, "EVENTPOLL_ISSUER": "https://bank.example"}
            app = create_app(Config.from_environ({"REDIS_URL": f"unix://{server.path}", **settings}))
            app.extensions["eventpoll"].transmitter.configure("tpp", hash_of("secret"), {})
            headers = {"HTTP_AUTHORIZATION": "Basic " + base64.b64encode(b"tpp:secret").decode()}
            parts = {"bare Flask, whole": called(bare(), headers), "a poll, whole": called(app, headers)}
            parts.update(steps(app, headers))
            found: dict[str, list[float]] = {name: [] for name in parts}
            for _ in range(ROUNDS):
                for name, what in parts.items():
                    found[name].append(microseconds(what))
            medians = {name: statistics.median(times) for name, times in found.items()}
            rest = medians["a poll, whole"] - sum(list(medians.values())[2:]) - medians["bare Flask, whole"]
            for name, median in {**medians, "the rest: headers, metrics, refusals at the ready": rest}.items():
                print(f"| {name} | {median:.0f} |")
            client = redis.Redis(unix_socket_path=server.path)
            print("\n| a push | worker | Redis |")
            for name, ours, theirs in pushes(app, client):
                print(f"| {name} | {ours:.0f} | {theirs:.0f} |")
    finally:
        programs.end_all()


if __name__ == "__main__":
    main()
