"""Guessing the bank's password: how often, by whom, and what an honest bank notices of it."""

import itertools
import json
import logging
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.security import check_password_hash, generate_password_hash

from app import create_app
from eventpoll.access import failed_logins, passwords
from eventpoll.access.door import hash_of
from eventpoll.access.failed_logins import FREE, Guesses
from eventpoll.access.passwords import Password
from eventpoll.errors import Refused
from eventpoll.settings import Config
from harness import contract, issuer
from harness.issuer import bearer, token
from harness.ports import free_port
from harness.redis_servers import RedisServer
from harness.service import BANK, Reply, Server, basic, start_server

SECONDS = 10
FORM = "application/x-www-form-urlencoded"
QUICK = "scrypt:16384:8:1"
RIGHT = {"Authorization": basic(*BANK)}
PLACES = [  # where the bank's password may be tried
    ("GET", "/streams"),
    ("GET", "/metrics"),
    ("GET", "/console"),
    ("POST", "/api/openbanking/event-notifications/events"),
    ("POST", "/api/fs/event-notifications/create-events"),
]
addresses = itertools.count(1)


@pytest.fixture(scope="module")
def server(redis_server: RedisServer, signing_keys: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A worker behind a proxy, so that callers may have any address; a guess every ten seconds."""
    environ = {
        "REDIS_URL": redis_server.url.removesuffix("0") + "8",
        "EVENTPOLL_BANK_USERNAME": BANK[0],
        "EVENTPOLL_BANK_PASSWORD": BANK[1],
        "EVENTPOLL_ISSUER": "https://bank.example",
        "EVENTPOLL_SIGNING_KEYS": signing_keys,
        "EVENTPOLL_FAILED_LOGIN_SECONDS": str(SECONDS),
        "EVENTPOLL_PROXY_HOPS": "1",
        **issuer.settings(),
    }
    server = start_server(environ, tmp_path_factory.mktemp("guessing"))
    yield server
    server.stop()


@pytest.fixture
def address() -> dict[str, str]:
    """The address of a caller who has not failed yet."""
    return {"X-Forwarded-For": f"192.0.2.{next(addresses)}"}


def guess(number: int) -> dict[str, str]:
    return {"Authorization": basic(BANK[0], f"guess-{number}")}


def hang_up(server: Server, method: str, path: str, headers: dict[str, str], seconds: float = 0.02) -> None:
    """Ask, and go after so many seconds whether there is an answer or not."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in headers.items())]
    with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
        connection.sendall("\r\n".join([*lines, "Content-Length: 0", "", ""]).encode())
        connection.settimeout(seconds)
        with suppress(TimeoutError):
            connection.recv(65536)


# -- over real sockets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), PLACES)
def test_hanging_up_does_not_speed_guessing(server: Server, address: dict[str, str], method: str, path: str) -> None:
    """Issue 11, 8: 844 guesses/s by hanging up after 20 ms. Whoever guessed so is not told that a guess is right."""

    def refused() -> bool:
        """Whether the right password, tried after sixty wrong ones, is not compared."""
        for number in range(3 * FREE):
            hang_up(server, method, path, {**address, **guess(number)})
        return server.request("GET", "/streams", headers={**address, **RIGHT}).status == 429

    assert any(refused() for _ in range(5))  # once in ten seconds a guess is free, be it the right one


@pytest.mark.parametrize("count", [1, 30])
def test_however_many_guess_at_a_time_few_are_compared(server: Server, address: dict[str, str], count: int) -> None:
    """Guesses that come together are counted each, before any is compared."""
    replies: list[Reply] = []

    def ask(numbers: range) -> None:
        for number in numbers:
            replies.append(server.request("GET", "/streams", headers={**address, **guess(number)}))

    begun = time.monotonic()
    threads = [threading.Thread(target=ask, args=(range(90 // count),)) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    compared = [reply for reply in replies if reply.status == 401]
    refused = [reply for reply in replies if reply.status == 429]
    assert len(compared) + len(refused) == 90
    assert 1 <= len(compared) <= FREE + (time.monotonic() - begun) / SECONDS + 1
    assert all(1 <= int(reply.headers["retry-after"]) <= SECONDS for reply in refused)


def test_who_guesses_holds_up_nobody_at_another_address_nor_tpps_nor_tokens(
    server: Server, address: dict[str, str]
) -> None:
    """A stranger's guesses cost the bank nothing, unless he shares its address; then its token still opens all."""
    tpp = f"tpp-{uuid.uuid4().hex[:8]}"
    server.tpp(tpp)
    while server.request("GET", "/streams", headers={**address, **guess(0)}).status != 429:
        pass
    assert server.bank("GET", "/streams").status == 200
    assert server.poll(tpp, {"returnImmediately": True}, headers=address).status == 200
    bank = bearer(token("the-bank", "eventpoll:bank"))
    assert server.request("GET", "/streams", headers={**address, **bank}).status == 200


def test_the_bank_is_let_in_again_after_the_time_that_it_was_told(server: Server, address: dict[str, str]) -> None:
    """RFC 9110 section 10.2.3. Refused guesses do not count: nobody is locked out for good."""
    while server.request("GET", "/streams", headers={**address, **guess(0)}).status != 429:
        pass
    for number in range(FREE):
        server.request("GET", "/streams", headers={**address, **guess(number)})
    reply = server.request("GET", "/streams", headers={**address, **RIGHT})
    if reply.status == 429:
        time.sleep(int(reply.headers["retry-after"]))
        reply = server.request("GET", "/streams", headers={**address, **RIGHT})
    assert reply.status == 200


def test_while_a_hash_is_computed_others_are_answered(serve: Callable[..., Server], redis_server: RedisServer) -> None:
    """ADR 0009: no request waits for another's work, be it a second of scrypt."""
    hashed = generate_password_hash(BANK[1], "scrypt:32768:8:8")
    server = serve(REDIS_URL=redis_server.url, EVENTPOLL_BANK_PASSWORD=hashed)
    logins: list[int] = []
    login = threading.Thread(target=lambda: logins.append(server.bank("GET", "/streams").status))
    login.start()
    answered = 0
    while login.is_alive():
        assert server.request("GET", "/healthz").status == 200
        answered += 1
    assert logins == [200]
    assert answered > 3


@pytest.mark.parametrize("hashed", [False, True])
def test_right_passwords_that_come_together_pass_all(
    serve: Callable[..., Server], redis_server: RedisServer, hashed: bool
) -> None:
    """More than the guesses that are free, to a worker that has not seen the password yet."""
    settings = {"EVENTPOLL_BANK_PASSWORD": generate_password_hash(BANK[1], QUICK)} if hashed else {}
    server = serve(REDIS_URL=redis_server.url, EVENTPOLL_FAILED_LOGIN_SECONDS=str(SECONDS), **settings)
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(server.bank("GET", "/streams").status)) for _ in range(2 * FREE)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert statuses == [200] * len(threads)


def test_while_the_store_is_away_logins_are_judged_as_ever(serve: Callable[..., Server]) -> None:
    """Guesses are counted in the worker: who has the right password reaches what needs no store, and no 500 comes."""
    server = serve(
        REDIS_URL=f"redis://127.0.0.1:{free_port()}/0",
        EVENTPOLL_FAILED_LOGIN_SECONDS=str(SECONDS),
        EVENTPOLL_BANK_PASSWORD=generate_password_hash(BANK[1], QUICK),
    )
    assert server.bank("GET", "/metrics").status == 200
    assert server.bank("GET", "/streams").status == 503
    wrong = [server.request("GET", "/metrics", headers=guess(number)).status for number in range(3 * FREE)]
    assert set(wrong) == {503, 429}  # whether it is a TPP's secret cannot be said
    assert wrong[0] == 503


# -- with a clock of our own -------------------------------------------------------------------------------------


class Clock:
    """A clock that stands still unless told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """A delayed 401 takes no time here."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(failed_logins, "time", clock)
    return clock


@pytest.fixture
def limited(app: Flask, environ: dict[str, str], clock: Clock) -> Callable[..., FlaskClient]:
    """Clients of an application with a guess each second, on the store of `app`."""

    def client(**settings: str) -> FlaskClient:
        given = {**environ, "EVENTPOLL_FAILED_LOGIN_SECONDS": "1", **settings}
        return create_app(Config.from_environ(given)).test_client()

    return client


def exhaust(client: FlaskClient) -> None:
    """Use up what is free."""
    for number in range(FREE):
        assert client.get("/streams", headers=guess(number)).status_code == 401


def test_after_twenty_failures_a_guess_is_compared_each_second(
    limited: Callable[..., FlaskClient], clock: Clock
) -> None:
    """EVENTPOLL_FAILED_LOGIN_SECONDS; the right password is one guess of them, and takes its count back."""
    client = limited()
    exhaust(client)
    assert client.get("/streams", headers=RIGHT).status_code == 429
    clock.now += 0.9
    assert client.get("/streams", headers=RIGHT).status_code == 429
    clock.now += 0.2
    assert [client.get("/streams", headers=RIGHT).status_code for _ in range(3 * FREE)] == [200] * 3 * FREE
    assert [client.get("/streams", headers=guess(n)).status_code for n in range(3)] == [401, 429, 429]
    clock.now += FREE
    exhaust(client)
    assert client.get("/streams", headers=guess(0)).status_code == 429


@pytest.mark.parametrize("settings", [{"EVENTPOLL_FAILED_LOGIN_SECONDS": "0"}, {}])
def test_right_passwords_are_never_counted(limited: Callable[..., FlaskClient], settings: dict[str, str]) -> None:
    """Only failures are; and 0 turns the limit off."""
    client = limited(**settings)
    assert {client.get("/streams", headers=RIGHT).status_code for _ in range(3 * FREE)} == {200}
    wrong = {client.get("/streams", headers=guess(number)).status_code for number in range(3 * FREE)}
    assert wrong == ({401} if settings else {401, 429})


@pytest.mark.parametrize(("method", "path"), PLACES)
def test_the_429_has_the_shape_of_its_path(limited: Callable[..., FlaskClient], method: str, path: str) -> None:
    """RFC 6585 section 4, in the profile's shape, as documented; guesses count wherever they are made."""
    client = limited()
    for number in range(FREE):
        client.open(path, method=method, headers=guess(number))
    for headers in (guess(0), RIGHT):
        reply = client.open(path, method=method, headers={**headers, "Accept": "application/json"})
        assert (reply.status_code, reply.headers["Retry-After"]) == (429, "1")
        assert "WWW-Authenticate" not in reply.headers
        told = {name.lower(): value for name, value in reply.headers}
        contract.check(method, path, reply.status_code, told, reply.data)
        assert failed_logins.GUESSED in json.dumps(reply.get_json())
    assert client.get("/streams", headers=RIGHT).status_code == 429


def test_a_browser_gets_a_page(limited: Callable[..., FlaskClient]) -> None:
    """The console's login is the bank's: no dialog that asks for the password again and again."""
    client = limited()
    exhaust(client)
    reply = client.get("/console", headers={**RIGHT, "Accept": "text/html"})
    assert (reply.status_code, reply.mimetype) == (429, "text/html")
    assert failed_logins.GUESSED in reply.get_data(as_text=True)


@pytest.mark.parametrize("name", [BANK[0], f"{BANK[0]}:one"])
def test_a_tpp_whose_name_begins_like_the_banks_user_polls_as_others(
    limited: Callable[..., FlaskClient], name: str
) -> None:
    """decisions.md: such a stream may be. Its own secret is no guess; a wrong one may be."""
    client = limited()
    client.application.extensions["eventpoll"].transmitter.configure(name, hash_of("secret"), {})
    own, body = {"Authorization": basic(name, "secret")}, {"returnImmediately": True}
    polls = [client.post("/events", json=body, headers=own).status_code for _ in range(2 * FREE)]
    calls = [client.get("/streams", headers=own).status_code for _ in range(2 * FREE)]
    assert (set(polls), set(calls)) == ({200}, {403})
    assert client.get("/streams", headers=RIGHT).status_code == 200
    wrong = [client.get("/streams", headers=guess(n)).status_code for n in range(FREE + 1)]
    assert wrong == [401] * FREE + [429]


def test_the_log_says_once_a_minute_that_somebody_guesses(
    limited: Callable[..., FlaskClient], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The operator learns from where, and what to do where it is the proxy's address."""
    client = limited()
    with caplog.at_level(logging.WARNING, "eventpoll.access.failed_logins"):
        for _ in range(2):
            clock.now += FREE + 60
            exhaust(client)
            for number in range(5):
                client.get("/streams", headers=guess(number))
    lines = [record.getMessage() for record in caplog.records if record.name == "eventpoll.access.failed_logins"]
    assert len(lines) == 2
    assert all("'bank' came from 127.0.0.1" in line and "EVENTPOLL_PROXY_HOPS" in line for line in lines)
    assert "guess-" not in "".join(lines)


def many(guesses: Guesses, address: str, name: str = "bank") -> int:
    """How many guesses pass from an address."""
    for number in range(2 * FREE):
        try:
            guesses.count(address, name)
        except Refused:
            return number
    return 2 * FREE


def test_addresses_that_one_caller_has_count_as_one(clock: Clock) -> None:
    """An IPv6 customer has 2^64 addresses; an IPv4 caller of a socket for both has the address that he had before."""
    guesses = Guesses(1.0)
    assert many(guesses, "2001:db8:1:2::1") == FREE
    assert many(guesses, "2001:db8:1:2:ffff::9") == 0
    assert many(guesses, "2001:db8:1:3::1") == FREE
    assert many(guesses, "::ffff:192.0.2.1") == FREE
    assert many(guesses, "192.0.2.1") == 0
    assert many(guesses, "::ffff:192.0.2.2") == FREE
    assert many(guesses, "no:address") == FREE
    assert many(guesses, "") == FREE
    assert many(guesses, "192.0.2.1", "another bank") == FREE


def test_what_is_remembered_of_guesses_is_bounded(clock: Clock) -> None:
    """Whoever has many addresses fills no memory."""
    guesses = Guesses(1.0)
    for number in range(failed_logins.REMEMBERED + 10):
        guesses.count(f"10.0.{number >> 8}.{number & 255}", "bank" + "x" * 1000)
    assert len(guesses._full_at) == failed_logins.REMEMBERED
    assert max(len(name) for _, name in guesses._full_at) <= 128


# -- hashes ------------------------------------------------------------------------------------------------------


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passwords for which a hash was computed."""
    seen: list[str] = []

    def counted(hashed: str, shown: str) -> bool:
        seen.append(shown)
        return check_password_hash(hashed, shown)

    monkeypatch.setattr(passwords, "check_password_hash", counted)
    return seen


def test_the_hash_opens_what_the_password_opens_and_not_for_itself(limited: Callable[..., FlaskClient]) -> None:
    """Werkzeug's generate_password_hash; whoever reads the hash has no password."""
    hashed = generate_password_hash("p:ä:ss ", QUICK)
    client = limited(EVENTPOLL_BANK_PASSWORD=hashed)
    for word, status in (("p:ä:ss", 401), (hashed, 401), ("", 401), ("p:ä:ss ", 200), ("p:ä:ss", 401), (hashed, 401)):
        assert client.get("/streams", headers={"Authorization": basic("bank", word)}).status_code == status


def test_a_right_password_is_computed_once(computed: list[str]) -> None:
    """From then on neither right ones nor wrong ones cost the worker a tenth of a second."""
    password = Password(generate_password_hash("pass word", QUICK))
    assert not password.is_it("wrong")
    assert password.is_it("pass word")
    assert [password.is_it(word) for word in ("pass word", "wrong", "", "pass word")] == [True, False, False, True]
    assert computed == ["wrong", "pass word"]
    assert "pass word" not in repr(vars(password))


def test_a_guess_over_the_limit_computes_nothing(limited: Callable[..., FlaskClient], computed: list[str]) -> None:
    """429 comes before the comparison: it costs nothing, and says nothing."""
    client = limited(EVENTPOLL_BANK_PASSWORD=generate_password_hash(BANK[1], QUICK))
    exhaust(client)
    assert len(computed) == FREE
    assert client.get("/streams", headers=RIGHT).status_code == 429
    assert len(computed) == FREE


def test_a_tpps_login_computes_nothing(limited: Callable[..., FlaskClient], computed: list[str]) -> None:
    """Only the bank's name has its password compared."""
    client = limited(EVENTPOLL_BANK_PASSWORD=generate_password_hash(BANK[1], QUICK))
    assert client.post("/events", json={}, headers={"Authorization": basic("tpp", BANK[1])}).status_code == 401
    assert computed == []


def test_logins_do_not_pile_up_behind_a_hash(limited: Callable[..., FlaskClient], monkeypatch: Any) -> None:
    """Of those who wait for their turn there are so many; the others may come again."""
    monkeypatch.setattr(passwords, "MOST_WAITING", 0)
    reply = limited().get("/streams", headers=RIGHT)
    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")


def test_a_bank_that_is_not_there_is_nobody(limited: Callable[..., FlaskClient]) -> None:
    """Neither nothing nor its name in words passes for what is not set, and nothing counts as a guess of it."""
    client = limited(EVENTPOLL_BANK_USERNAME="", EVENTPOLL_BANK_PASSWORD="")
    for name in ("", "None", "bank"):
        for word in ("", "None", "x"):
            auth = {"Authorization": basic(name, word)}
            assert {client.get("/streams", headers=auth).status_code for _ in range(FREE)} == {401}
