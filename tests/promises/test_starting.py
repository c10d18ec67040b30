"""Ways to start the service, and what a start that fails leaves behind."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from harness import ROOT, issuer
from harness.issuer import bearer, token
from harness.ports import free_port
from harness.redis_servers import RedisServer
from harness.service import BANK, Reply, Server
from harness.waiting import wait_for
from tests.access.test_certificates import TPP
from tests.api.test_metrics import read, value

GUNICORN = ("gunicorn", "--config", str(ROOT / "gunicorn.conf.py"), "--pythonpath", str(ROOT))
KEYGEN = ("flask", "eventpoll", "keygen", "--alg", "ES256")


def run(directory: Path, *program: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A program that ends by itself; what it puts into the temporary directory goes to `directory`."""
    directory.mkdir(exist_ok=True)
    settings = {"PATH": os.environ["PATH"], "TMPDIR": str(directory), "FLASK_APP": str(ROOT / "wsgi.py"), **environ}
    command = [sys.executable, "-m", *program]
    return subprocess.run(command, cwd=directory, env=settings, capture_output=True, text=True, timeout=60)


def test_the_service_runs_with_its_application_loaded_before_the_fork(
    serve: Callable[..., Server], redis_server: RedisServer, tmp_path: Path
) -> None:
    """Issue 13, 21: `gunicorn --preload wsgi:app`. Both workers hold polls, are woken, and count."""
    server = serve(
        workers=2,
        REDIS_URL=redis_server.url,
        GUNICORN_CMD_ARGS="--preload",
        EVENTPOLL_LONG_POLL_SECONDS="20",
        TMPDIR=str(tmp_path),
    )
    server.tpp("preloaded")
    replies: list[Reply] = []
    polls = [threading.Thread(target=lambda: replies.append(server.poll("preloaded"))) for _ in range(8)]
    for poll in polls:
        poll.start()
    client = redis.Redis.from_url(redis_server.url)
    wait_for(lambda: value(read(server), "eventpoll_held_polls") == 8, 30)
    assert client.pubsub_numsub("eventpoll:{preloaded}:wake")[0][1] >= 1
    client.close()
    jti = server.push("preloaded")
    wait_for(lambda: any(jti in reply.json["sets"] for reply in replies), 30)
    assert server.stop() == 0
    for poll in polls:
        poll.join(30)
    assert [reply.status for reply in replies] == [200] * 8
    assert not list(tmp_path.glob("eventpoll-*"))


@pytest.mark.parametrize("program", [(*GUNICORN, "wsgi:app"), ("gunicorn", "--check-config", "wsgi:app"), KEYGEN])
@pytest.mark.parametrize("name", ["PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"])
def test_a_folder_for_counts_that_is_not_there_is_told_in_one_line(
    program: tuple[str, ...], name: str, tmp_path: Path
) -> None:
    """Issue 13, 21: it was a traceback. A file, or a folder that may not be written to, is none either."""
    file = tmp_path / "file"
    file.touch()
    for folder in ("/nowhere", str(file)):
        environ = {name: folder, "PORT": str(free_port()), "PYTHONPATH": str(ROOT)}
        found = run(tmp_path / "run", *program, **environ)
        assert found.returncode == 1
        assert found.stderr.splitlines()[-1] == "PROMETHEUS_MULTIPROC_DIR: must name a folder that can be written to"
        assert "Traceback" not in found.stderr


def test_a_command_leaves_no_file_among_the_counts(tmp_path: Path) -> None:
    """Each left one for its process, and a scrape reads them all."""
    counts = tmp_path / "counts"
    counts.mkdir()
    assert run(tmp_path / "run", *KEYGEN, PROMETHEUS_MULTIPROC_DIR=str(counts)).returncode == 0
    assert not list(counts.iterdir())


def test_a_start_whose_port_is_in_use_leaves_nothing_behind(tmp_path: Path) -> None:
    """Issue 13, 21: gunicorn gives up after five tries; a folder of its own stayed each time."""
    with socket.create_server(("0.0.0.0", 0)) as other:
        found = run(tmp_path / "run", *GUNICORN, "wsgi:app", PORT=str(other.getsockname()[1]))
    assert found.returncode != 0
    assert "in use" in found.stderr
    assert not list((tmp_path / "run").glob("eventpoll-*"))


def test_a_start_whose_workers_do_not_begin_leaves_nothing_behind(tmp_path: Path, redis_server: RedisServer) -> None:
    """gunicorn ends with code 3 or 4 where an application cannot be loaded."""
    environ = {"PORT": str(free_port()), "REDIS_URL": redis_server.url, "WEB_CONCURRENCY": "1"}
    for name in ("wsgi:nothing", "nothing:app"):
        found = run(tmp_path / "run", *GUNICORN, name, **environ)
        assert found.returncode in (3, 4)
        assert not list((tmp_path / "run").glob("eventpoll-*"))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_an_end_leaves_nothing_behind(
    serve: Callable[..., Server], redis_server: RedisServer, tmp_path: Path, how: int
) -> None:
    """The counts go with the master, and stay while a worker ends and another begins."""
    server = serve(REDIS_URL=redis_server.url, TMPDIR=str(tmp_path))
    (counts,) = tmp_path.glob("eventpoll-*")
    assert counts.stat().st_mode & 0o777 == 0o700
    workers = subprocess.run(["ps", "-o", "pid=", "--ppid", str(server.process.pid)], capture_output=True, text=True)
    os.kill(int(workers.stdout.split()[0]), signal.SIGTERM)
    wait_for(lambda: server.request("GET", "/metrics", auth=BANK).status == 200, 60)
    assert counts.is_dir()
    server.stop(how)
    assert not list(tmp_path.glob("eventpoll-*"))


# -- where it listens --------------------------------------------------------------------------------------------


def asked(server: Server, host: str) -> str:
    """The address by which the request log knows who asks `host`; with a certificate's header, as a proxy would."""
    token_and_proof = {**bearer(token("tpp", **TPP.bound)), "Client-Cert": TPP.rfc9440()}
    connection = http.client.HTTPConnection(host, server.port, timeout=20)
    headers = {"Content-Type": "application/json", **token_and_proof}
    connection.request("POST", "/events", '{"returnImmediately":true}', headers)
    assert connection.getresponse().status == 200
    connection.close()
    lines = [line for line in server.log.read_text().splitlines() if line.startswith("{")]
    return str(json.loads(lines[-1])["address"])


def test_it_listens_on_all_addresses_and_knows_callers_by_theirs(
    serve: Callable[..., Server], redis_server: RedisServer
) -> None:
    """Issue 13, 22: IPv6 too. Who comes by IPv4 has its IPv4 address, for the log and as a trusted proxy."""
    server = serve(
        REDIS_URL=redis_server.url,
        EVENTPOLL_LOG="json",
        EVENTPOLL_CLIENT_CERT_HEADER="Client-Cert",
        EVENTPOLL_TRUSTED_PROXIES="127.0.0.1 ::1",
        **issuer.settings(),
    )
    assert [asked(server, host) for host in ("127.0.0.1", "::1", "127.0.0.1")] == ["127.0.0.1", "::1", "127.0.0.1"]
    server.raw(b"nonsense\r\n\r\n")
    assert "Unreadable request from 127.0.0.1" in server.log.read_text()


@pytest.mark.parametrize(
    ("system", "bound"),
    [
        ("pass", ["[::]:8000"]),
        ("socket.socket = refused", ["0.0.0.0:8000"]),
        ("socket.socket.bind = refused", ["0.0.0.0:8000"]),
        ("socket.socket.getsockopt = lambda *_: 1", ["[::]:8000", "0.0.0.0:8000"]),
    ],
    ids=["both in one", "no IPv6", "IPv6 turned off", "each by itself"],
)
def test_it_binds_what_the_system_has(system: str, bound: list[str], tmp_path: Path) -> None:
    """A kernel without IPv6, one in which it is turned off, and one with net.ipv6.bindv6only."""
    script = f"""
from gevent import monkey
monkey.patch_all()
import runpy, socket
def refused(*_):
    raise OSError("Address family not supported by protocol")
conf = runpy.run_path({str(ROOT / "gunicorn.conf.py")!r})
assert conf["bind"] != [], conf["bind"]
{system}
print(*conf["everywhere"](8000))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.stdout.split() == bound, done.stderr


# -- what is said at a start -------------------------------------------------------------------------------------


def test_each_start_warns_of_a_misspelt_name(
    serve: Callable[..., Server], own_redis: RedisServer, tmp_path: Path
) -> None:
    """Issue 13, 23: it was accepted in silence. The web process says it once, not once a worker; so does the worker."""
    environ = {"REDIS_URL": own_redis.url, "EVENTPOLL_ISUER": "https://bank.example"}
    log = serve(workers=2, **environ).log.read_text()
    assert log.count("is EVENTPOLL_ISSUER meant?") == 1
    worker = run(tmp_path / "run", "flask", "eventpoll", "worker", "--once", **environ)
    assert worker.stderr.count("is EVENTPOLL_ISSUER meant?") == 1
    assert "meant?" not in run(tmp_path / "run", "flask", "eventpoll", "streams", **environ).stderr


def test_a_poll_may_be_held_longer_than_most_time_outs_of_ours(
    serve: Callable[..., Server], redis_server: RedisServer
) -> None:
    """Issue 13, 24. Beyond 30 s, after which a client that takes nothing is let go, and 28, the most that there was."""
    server = serve(REDIS_URL=redis_server.url, EVENTPOLL_LONG_POLL_SECONDS="600", DYNO="web.1")
    assert "EVENTPOLL_LONG_POLL_SECONDS is 600, and Heroku's router" in server.log.read_text()
    server.tpp("patient")
    replies: list[Reply] = []
    poll = threading.Thread(target=lambda: replies.append(server.poll("patient", timeout=600)))
    poll.start()
    poll.join(35)
    assert poll.is_alive()
    jti = server.push("patient")
    poll.join(60)
    assert [list(reply.json["sets"]) for reply in replies] == [[jti]]
    another = threading.Thread(target=lambda: replies.append(server.poll("patient", {"ack": [jti]}, timeout=600)))
    another.start()
    wait_for(lambda: value(read(server), "eventpoll_held_polls") == 1, 30)
    assert server.stop() == 0  # not after ten minutes
    another.join(30)
    assert replies[1].json["sets"] == {}
