"""The version of the stored layout: a service that finds a newer one says so, and does not start."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from eventpoll.store.errors import NewerLayout
from eventpoll.store.store import LAYOUT, Store
from harness import ROOT
from harness.programs import environment, gunicorn
from harness.redis_servers import RedisServer
from harness.service import Server
from harness.waiting import wait_for

WORDS = "the stream tpp-7 has layout 2, and eventpoll"


def write_layout(url: str, tpp: str, layout: int) -> None:
    """Do to a stream what a later version does."""
    with redis.Redis.from_url(url) as client:
        assert client.hset(f"eventpoll:{{{tpp}}}:stream", "layout", layout) == 0  # the field was there


def test_a_new_stream_has_the_layout_of_this_version(store: Store) -> None:
    """docs/redis-layout.md: the field `layout` of each stream. A stream of before has none, and is of layout 1."""
    store.configure("tpp-1", "5e88", {})
    assert store.status("tpp-1").fields["layout"] == LAYOUT
    store.redis.hdel("eventpoll:{tpp-1}:stream", "layout")
    store.check_layout()


def test_readiness_finds_a_newer_stream_among_many(store: Store) -> None:
    """Each look takes the next streams; once found, the stream is found by every look."""
    for number in range(10):
        store.configure(f"tpp-{number}", "5e88", {})
    store.check_layout(4)
    store.redis.hset("eventpoll:{tpp-7}:stream", "layout", 2)
    with pytest.raises(NewerLayout, match=WORDS):
        store.check_layout(4)
    with pytest.raises(NewerLayout, match=WORDS):
        store.check_layout(4)
    store.redis.hset("eventpoll:{tpp-7}:stream", "layout", 1)
    for _ in range(8):
        store.check_layout(4)
    store.redis.hset("eventpoll:{tpp-0}:stream", "layout", 2)
    found = 0
    for _ in range(4):  # round again, from the first
        try:
            store.check_layout(4)
        except NewerLayout:
            found += 1
    assert found


def test_a_service_that_finds_a_newer_layout_does_not_start(
    own_redis: RedisServer, environ: dict[str, str], serve: Callable[..., Server], tmp_path: Path
) -> None:
    """Issue 12, 3: web, worker and check refuse with the words that say how; /readyz of one that runs is 503."""
    server = serve(REDIS_URL=own_redis.url)
    server.tpp("tpp-7")
    assert server.request("GET", "/readyz").status == 200
    write_layout(own_redis.url, "tpp-7", 2)
    refused = server.request("GET", "/readyz")
    assert (refused.status, refused.json["description"]) == (
        503,
        "a newer version of eventpoll has written the store: see the log of this one",
    )
    assert WORDS in server.log.read_text()

    settings = {**environment(), **environ, "REDIS_URL": own_redis.url, "WEB_CONCURRENCY": "1", "PYTHONPATH": str(ROOT)}
    commands = {
        "web": [*gunicorn("wsgi:app"), "--bind", "127.0.0.1:0"],
        "worker": [sys.executable, "-m", "eventpoll", "worker"],
        "check": [sys.executable, "-m", "eventpoll", "check", "--json"],
    }
    for name, command in commands.items():
        done = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1, name
        assert WORDS in done.stdout + done.stderr, name
        assert "docs/operations.md, Upgrade" in done.stdout + done.stderr, name
        assert "Traceback" not in done.stderr, name
        if name == "check":
            assert [row["level"] for row in json.loads(done.stdout)["findings"] if WORDS in row["what"]] == ["error"]
    write_layout(own_redis.url, "tpp-7", 1)
    wait_for(lambda: server.request("GET", "/readyz").status == 200)
