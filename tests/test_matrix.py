"""Two TPPs and one bank, every kind of credentials, every endpoint that there is: who gets what."""

import uuid
from collections.abc import Callable, Iterator

import pytest

from harness import issuer
from harness.issuer import STRANGER, bearer, claims, sign, token
from harness.redis_servers import RedisServer
from harness.service import BANK, BANK_SETTINGS, Reply, Server, basic, start_server
from tests.test_auth import ALL, BANKS, FORM, OPEN, POLLS, TPPS, WSO2_POLLS
from tests.test_certificates import OTHER, TPP

Headers = dict[str, str]


@pytest.fixture(scope="module")
def server(redis_server: RedisServer, signing_keys: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service for every kind of credentials."""
    environ = {
        "REDIS_URL": redis_server.url.removesuffix("0") + "12",
        **BANK_SETTINGS,
        "EVENTPOLL_SIGNING_KEYS": signing_keys,
        "EVENTPOLL_LONG_POLL_SECONDS": "1",
        "EVENTPOLL_FAILED_LOGIN_SECONDS": "0",
        "EVENTPOLL_CLIENT_CERT_HEADER": "Client-Cert",
        **issuer.settings(),
    }
    server = start_server(environ, tmp_path_factory.mktemp("matrix"), workers=2)
    yield server
    server.stop()


class Scene:
    """Two TPPs, each with a SET that waits; A's stream is what is asked about."""

    def __init__(self, server: Server) -> None:
        self.server = server
        mark = uuid.uuid4().hex[:8]
        self.a, self.b = f"a-{mark}", f"b-{mark}"
        for tpp in (self.a, self.b):
            server.tpp(tpp)
        self.jti_a, self.jti_b = server.push(self.a), server.push(self.b)

    def send(self, method: str, path: str, credentials: Headers) -> Reply:
        """A request that is right but for who asks. It would settle both SETs."""
        path = path.replace("TPP", self.a).replace("JTI", self.jti_a)
        headers, body = {"Content-Type": "application/json"}, "{}"
        if path in WSO2_POLLS:
            headers, body = {"Content-Type": FORM, "x-wso2-client-id": self.a}, "request=e30="
        elif path in POLLS:
            body = '{"returnImmediately":true}'
        return self.server.request(method, path, body if method != "GET" else None, {**headers, **credentials})

    def basic(self, tpp: str) -> Headers:
        return {"Authorization": basic(tpp, self.server.secrets[tpp])}

    def untouched(self) -> bool:
        """Whether both SETs wait as they did."""
        return [self.server.bank("GET", f"/streams/{tpp}").json["pending"] for tpp in (self.a, self.b)] == [1, 1]


#: Credentials: as whom they come (A, B, the bank, somebody known without a right here, or nobody).
CREDENTIALS: dict[str, tuple[str, Callable[[Scene], Headers]]] = {
    "A's secret": ("a", lambda scene: scene.basic(scene.a)),
    "A's token": ("a", lambda scene: bearer(token(scene.a))),
    "A's bound token and its certificate": (
        "a",
        lambda scene: {**bearer(token(scene.a, **TPP.bound)), "Client-Cert": TPP.rfc9440()},
    ),
    "B's secret": ("b", lambda scene: scene.basic(scene.b)),
    "B's token": ("b", lambda scene: bearer(token(scene.b, "accounts payments"))),
    "B's bound token and its certificate": (
        "b",
        lambda scene: {**bearer(token(scene.b, **OTHER.bound)), "Client-Cert": OTHER.escaped()},
    ),
    "the bank's password": ("bank", lambda scene: {"Authorization": basic(*BANK)}),
    "the bank's token": ("bank", lambda scene: bearer(token("the-bank", "eventpoll:bank"))),
    "the bank's bound token and its certificate": (
        "bank",
        lambda scene: {**bearer(token("the-bank", "eventpoll:bank", **TPP.bound)), "Client-Cert": TPP.escaped()},
    ),
    "A's token without a scope of ours": ("known", lambda scene: bearer(token(scene.a, "openid"))),
    "nothing": ("nobody", lambda scene: {}),
    "a wrong secret": ("nobody", lambda scene: {"Authorization": basic(scene.a, "wrong")}),
    "B's secret under A's name": (
        "nobody",
        lambda scene: {"Authorization": basic(scene.a, scene.server.secrets[scene.b])},
    ),
    "the bank's password under A's name": ("nobody", lambda scene: {"Authorization": basic(scene.a, BANK[1])}),
    "A's token, forged": ("nobody", lambda scene: bearer(sign(claims(scene.a), key=STRANGER))),
    "the bank's token, forged": ("nobody", lambda scene: bearer(sign(claims("x", "eventpoll:bank"), key=STRANGER))),
    "A's token, expired": ("nobody", lambda scene: bearer(token(scene.a, exp=1))),
    "A's token, of another audience": ("nobody", lambda scene: bearer(token(scene.a, aud="https://other.example"))),
    "A's bound token without its certificate": ("nobody", lambda scene: bearer(token(scene.a, **TPP.bound))),
    "A's bound token with B's certificate": (
        "nobody",
        lambda scene: {**bearer(token(scene.a, **TPP.bound)), "Client-Cert": OTHER.rfc9440()},
    ),
    "the bank's bound token without its certificate": (
        "nobody",
        lambda scene: bearer(token("the-bank", "eventpoll:bank", **TPP.bound)),
    ),
    "A's certificate alone": ("nobody", lambda scene: {"Client-Cert": TPP.rfc9440()}),
}


def of(*kinds: str) -> list[str]:
    """The credentials of those kinds."""
    return [name for name, (kind, _) in CREDENTIALS.items() if kind in kinds]


def test_every_endpoint_has_its_place() -> None:
    """From the application's own map: an endpoint that is added is in here the same day."""
    assert set(ALL) == set(TPPS) | set(BANKS) | {("GET", path) for path in OPEN} & set(ALL)


@pytest.mark.parametrize("who", of("nobody", "known"))
def test_who_is_not_let_in_gets_nothing_anywhere(server: Server, who: str) -> None:
    """Decision 20; RFC 6750 section 3.1. 401, or 403 without a scope of ours; a challenge with each; no effect."""
    scene = Scene(server)
    kind, credentials = CREDENTIALS[who]
    for method, path in [*TPPS, *BANKS]:
        reply = scene.send(method, path, credentials(scene))
        assert (reply.status, method, path) == (403 if kind == "known" else 401, method, path)
        assert "www-authenticate" in reply.headers
        assert scene.jti_a.encode() not in reply.body
    assert scene.untouched()


@pytest.mark.parametrize("who", of("a", "b"))
def test_a_tpp_gets_nothing_of_what_is_the_banks(server: Server, who: str) -> None:
    """403 for every call of the bank's, about its own stream as about another's."""
    scene = Scene(server)
    for method, path in BANKS:
        reply = scene.send(method, path, CREDENTIALS[who][1](scene))
        assert (reply.status, method, path) == (403, method, path)
        assert scene.jti_a.encode() not in reply.body
    assert scene.untouched()


@pytest.mark.parametrize("who", of("a", "b"))
def test_a_tpp_polls_its_own_stream_on_every_path_and_nobody_elses(server: Server, who: str) -> None:
    """Each sees its own SET; on WSO2's paths, where A is named, B gets 403 and learns nothing."""
    kind, credentials = CREDENTIALS[who]
    for method, path in TPPS:
        scene = Scene(server)
        reply = scene.send(method, path, credentials(scene))
        if kind == "b" and path in WSO2_POLLS:
            assert (reply.status, path) == (403, path)
            assert scene.untouched()
        else:
            own, other = (scene.jti_a, scene.b) if kind == "a" else (scene.jti_b, scene.a)
            assert (reply.status, path) == (200, path)
            assert list(reply.json["sets"]) == [own]
            assert server.bank("GET", f"/streams/{other}").json["pending"] == 1


@pytest.mark.parametrize("who", of("a", "b"))
@pytest.mark.parametrize("path", POLLS)
def test_a_tpp_settles_its_own_sets_and_nobody_elses(server: Server, who: str, path: str) -> None:
    """Decision 3: a foreign jti in ack or setErrs is like an unknown one, in effect and in answer."""
    scene = Scene(server)
    kind, credentials = CREDENTIALS[who]
    own, other = (scene.a, scene.b) if kind == "a" else (scene.b, scene.a)
    foreign = scene.jti_b if kind == "a" else scene.jti_a
    told = []
    for jti in (foreign, "never-there"):
        error = f'"setErrs":{{"{jti}":{{"err":"invalid_key","description":"x"}}}}'
        body = f'{{"returnImmediately":true,"maxEvents":0,"ack":["{jti}"],{error}}}'
        headers = {"Content-Type": "application/json", **credentials(scene)}
        reply = server.request("POST", path, body, headers)
        told.append((reply.status, reply.body))
    assert told[0] == told[1]
    assert told[0][0] == 200
    assert scene.untouched()
    mine = scene.jti_a if kind == "a" else scene.jti_b
    body = f'{{"returnImmediately":true,"maxEvents":0,"ack":["{mine}"]}}'
    assert server.request("POST", path, body, {"Content-Type": "application/json", **credentials(scene)}).status == 200
    assert [server.bank("GET", f"/streams/{tpp}").json["pending"] for tpp in (own, other)] == [0, 1]


@pytest.mark.parametrize("who", of("bank"))
def test_the_bank_is_let_in_to_all_that_is_its_own(server: Server, who: str) -> None:
    """interface.md, "The bank". Something else may be wrong with these requests, but not who asks."""
    for method, path in BANKS:
        scene = Scene(server)
        reply = scene.send(method, path, CREDENTIALS[who][1](scene))
        assert reply.status not in (401, 403, 404, 405, 500), (method, path, reply.body)
        assert server.bank("GET", f"/streams/{scene.b}").json["pending"] == 1


@pytest.mark.parametrize("who", of("bank"))
def test_the_bank_polls_for_a_tpp_on_wso2s_paths_alone(server: Server, who: str) -> None:
    """decisions.md, profile table."""
    for method, path in TPPS:
        scene = Scene(server)
        reply = scene.send(method, path, CREDENTIALS[who][1](scene))
        if path in WSO2_POLLS:
            assert (reply.status, list(reply.json["sets"])) == (200, [scene.jti_a])
        else:
            assert (reply.status, path) == (403, path)
            assert scene.untouched()


@pytest.mark.parametrize("who", list(CREDENTIALS))
def test_what_is_open_is_open_to_all(server: Server, who: str) -> None:
    """interface.md, "Anyone": with whatever credentials, right or wrong."""
    scene = Scene(server)
    for method, path in sorted(set(ALL) - set(TPPS) - set(BANKS)):
        assert scene.send(method, path, CREDENTIALS[who][1](scene)).status == 200
