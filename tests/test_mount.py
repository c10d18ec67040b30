"""eventpoll in a bank's own Flask application."""

import base64
import json
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from flask import Blueprint, Flask, Response
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

import eventpoll
from eventpoll.settings import Config, ConfigError
from eventpoll.web.routes import RouteConflict
from harness.ports import free_port
from harness.redis_servers import RedisServer
from harness.service import BANK, ISSUER, basic
from harness.sets import set_of

AS_BANK = {"Authorization": basic(*BANK)}


def bank_app() -> Flask:
    """A bank's application with pages of its own."""
    app = Flask("mine")

    @app.get("/")
    def home() -> str:
        return "<h1>The bank</h1>"

    @app.get("/broken")
    def broken() -> str:
        raise LookupError("the bank's own mistake")

    @app.errorhandler(404)
    def lost(_: Exception) -> tuple[str, int]:
        return "<h1>Lost in the bank</h1>", 404

    @app.errorhandler(LookupError)
    def sorry(_: Exception) -> tuple[str, int]:
        return "<h1>Sorry</h1>", 500

    @app.after_request
    def sign(response: Response) -> Response:
        response.headers["X-Bank"] = "mine"
        return response

    return app


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> Flask:
    """The bank's application; eventpoll, once mounted in it, keeps its SETs in fakeredis."""
    kept = fakeredis.FakeRedis(version=(7,))
    monkeypatch.setattr("eventpoll.store.store.connect", lambda url, data_dir: kept)
    for name in Config.names():
        monkeypatch.delenv(name, raising=False)
    return bank_app()


def configured(app: Flask) -> Flask:
    """The settings in app.config."""
    app.config.update(EVENTPOLL_BANK_USERNAME=BANK[0], EVENTPOLL_BANK_PASSWORD=BANK[1], EVENTPOLL_LONG_POLL_SECONDS=0)
    return app


def polled(client: Client, mount: str = "") -> list[str]:
    """Make a stream, push a SET signed by the bank, and poll it: the jtis that came."""
    secret = json.loads(client.put(f"{mount}/streams/tpp", headers=AS_BANK).text)["secret"]
    headers = {**AS_BANK, "Content-Type": "application/secevent+jwt"}
    assert client.post(f"{mount}/streams/tpp/sets", data=set_of("j"), headers=headers).status_code == 202
    reply = client.post(f"{mount}/events", json={}, headers={"Authorization": basic("tpp", secret)})
    assert reply.status_code == 200
    return list(json.loads(reply.text)["sets"])


def test_one_call_mounts_everything(mine: Flask) -> None:
    """Issue 2: a bank can mount eventpoll in a Flask app of its own with one call."""
    eventpoll.init_app(configured(mine))
    client = mine.test_client()
    assert polled(client) == ["j"]
    for path in ("/healthz", "/readyz", "/.well-known/jwks.json"):
        assert client.get(path).status_code == 200
    for path in ("/open-banking/v3.1/events", "/open-banking/v4.0/events", "/api/fs/event-notifications/events"):
        assert client.post(path).status_code == 401


def test_the_banks_own_pages_and_errors_are_left_alone(mine: Flask) -> None:
    """Unknown paths, unknown methods, its own exceptions: all as the bank has them, and without our headers."""
    before, after = bank_app().test_client(), mine.test_client()
    eventpoll.init_app(configured(mine))
    for method, path in (
        ("GET", "/"),
        ("POST", "/"),
        ("GET", "/broken"),
        ("GET", "/nothing"),
        ("GET", "/streams-of-mine"),
        ("GET", "/events/of/mine"),
        ("POST", "/open-banking/v3.1/accounts"),
    ):
        headers = {"Sec-Fetch-Site": "cross-site"}
        old, new = (client.open(path, method=method, headers=headers) for client in (before, after))
        assert (new.status_code, new.data, dict(new.headers)) == (old.status_code, old.data, dict(old.headers))


def test_our_refusals_keep_their_shapes_in_the_banks_application(mine: Flask) -> None:
    """house.md: every refusal has its profile's one shape, whatever error pages the bank has for itself."""
    eventpoll.init_app(configured(mine))
    client = mine.test_client()
    unknown = client.get("/streams/none", headers=AS_BANK)
    assert (unknown.status_code, unknown.get_json()["err"]) == (404, "not_found")
    stranger = client.post("/events", json={})
    assert (stranger.status_code, stranger.get_json()["err"]) == (401, "authentication_failed")
    assert "WWW-Authenticate" in stranger.headers
    assert client.post("/open-banking/v3.1/events", json={}).data == b""
    too_large = client.put("/streams/tpp", data=b"x" * 1_048_577, headers=AS_BANK)
    assert (too_large.status_code, too_large.get_json()["err"]) == (413, "invalid_request")
    for reply in (unknown, stranger, too_large):
        assert "x-fapi-interaction-id" in reply.headers
        assert reply.headers["X-Bank"] == "mine"


def test_what_the_banks_application_holds_wins_over_the_environment(
    mine: Flask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """init_app: settings come from the environment, and from app.config, which wins, a file in the environment too."""
    secret = tmp_path / "secret"
    secret.write_text("from-a-file")
    monkeypatch.setenv("EVENTPOLL_BANK_USERNAME", "from-the-environment")
    monkeypatch.setenv("EVENTPOLL_BANK_PASSWORD_FILE", str(secret))
    monkeypatch.setenv("EVENTPOLL_MAX_DELIVERIES", "7")
    mine.config.update(EVENTPOLL_BANK_PASSWORD=BANK[1], EVENTPOLL_MAX_DELIVERIES=None, EVENTPOLL_REDELIVER_AFTER=1.5)
    eventpoll.init_app(mine)
    headers = {"Authorization": basic("from-the-environment", BANK[1])}
    view = mine.test_client().put("/streams/tpp", headers=headers).get_json()
    assert (view["max_deliveries"], view["redeliver_after"]) == (7, 1.5)


def test_settings_may_be_handed_over_as_they_are(mine: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """init_app(app, config): neither the environment nor app.config is asked then."""
    monkeypatch.setenv("EVENTPOLL_BANK_USERNAME", "from-the-environment")
    mine.config["EVENTPOLL_MAX_DELIVERIES"] = "nonsense"
    eventpoll.init_app(mine, Config(bank_username=BANK[0], bank_password=BANK[1], issuer=ISSUER))
    assert mine.test_client().get("/streams", headers=AS_BANK).get_json() == {"streams": []}


def test_mistakes_in_the_settings_stop_the_start_all_at_once(mine: Flask) -> None:
    """interface.md: one line for each mistake; nothing is mounted by half."""
    mine.config.update(EVENTPOLL_MAX_EVENTS=0, EVENTPOLL_ON_ERROR="drop", EVENTPOLL_BANK_USERNAME="bank")
    with pytest.raises(ConfigError) as raised:
        eventpoll.init_app(mine)
    assert len(raised.value.mistakes) == 3
    for name in ("EVENTPOLL_MAX_EVENTS", "EVENTPOLL_ON_ERROR", "EVENTPOLL_BANK_PASSWORD"):
        assert name in str(raised.value)
    assert mine.test_client().get("/healthz").data == b"<h1>Lost in the bank</h1>"


def test_below_a_prefix_everything_works_the_same(mine: Flask) -> None:
    """A bank that mounts the whole application under a path of its server (WSGI's SCRIPT_NAME)."""
    eventpoll.init_app(configured(mine))
    client = Client(DispatcherMiddleware(Flask("outer"), {"/secevents": mine}))
    assert polled(client, "/secevents") == ["j"]
    refused = client.post("/secevents/api/fs/event-notifications/events")
    assert list(json.loads(refused.text)) == ["error_description", "error"]


def test_two_applications_in_one_process_do_not_mix(mine: Flask) -> None:
    """Each application has its own service: another bank's credentials open nothing."""
    eventpoll.init_app(configured(mine))
    other = Flask("other")
    other.config.update(EVENTPOLL_BANK_USERNAME="other", EVENTPOLL_BANK_PASSWORD="other")
    eventpoll.init_app(other)
    assert mine.test_client().get("/streams", headers=AS_BANK).status_code == 200
    assert other.test_client().get("/streams", headers=AS_BANK).status_code == 401


def test_the_commands_come_along(mine: Flask) -> None:
    """interface.md: flask eventpoll …, in the bank's application too."""
    eventpoll.init_app(configured(mine))
    result = mine.test_cli_runner().invoke(args=["eventpoll", "add-tpp", "tpp", "--json"])
    assert result.exit_code == 0
    secret = json.loads(result.stdout)["secret"]
    reply = mine.test_client().post("/events", json={}, headers={"Authorization": basic("tpp", secret)})
    assert reply.get_json() == {"sets": {}, "moreAvailable": False}


def test_a_mounted_service_polls_from_a_real_store(redis_server: RedisServer) -> None:
    """REDIS_URL from app.config, and a hold in Flask's own threads, without gunicorn."""
    app = configured(Flask("real"))
    app.config.update(REDIS_URL=redis_server.url.removesuffix("0") + "3", EVENTPOLL_LONG_POLL_SECONDS=0.2)
    eventpoll.init_app(app)
    client = app.test_client()
    assert polled(client) == ["j"]
    secret = client.post("/streams/tpp/secret", headers=AS_BANK).get_json()["secret"]
    headers, threads = {"Authorization": basic("tpp", secret)}, {"wsgi.multithread": True}
    held = client.post("/events", json={"ack": ["j"]}, headers=headers, environ_overrides=threads)
    assert held.get_json() == {"sets": {}, "moreAvailable": False}
    assert client.delete("/streams/tpp?force=true", headers=AS_BANK).status_code == 204


def test_a_route_of_the_banks_that_would_hide_one_of_ours_is_named(mine: Flask) -> None:
    """Issue 12, 3: whichever was added first would win, and nobody would hear of the other."""
    mine.add_url_rule("/healthz", "bank_health", lambda: "well")
    mine.add_url_rule("/streams/<river>", "rivers", lambda river: river)
    with pytest.raises(RouteConflict) as raised:
        eventpoll.init_app(configured(mine))
    health, rivers = str(raised.value).splitlines()
    assert "GET /healthz (bank_health) and /healthz (eventpoll.health.healthz)" in health
    assert "GET /streams/<river> (rivers) and /streams/<tpp> (eventpoll.bank." in rivers
    assert "url_prefix" in health


@pytest.mark.parametrize("rule", ["/docs", "/streams/<int:number>", "/streams/new", "/.well-known/jwks.json"])
def test_a_route_that_the_bank_adds_later_is_named_in_its_line(mine: Flask, rule: str) -> None:
    """Extensions come first in most applications, and their pages after them."""
    eventpoll.init_app(configured(mine))
    pages = Blueprint("pages", __name__)
    pages.add_url_rule(rule, "own", lambda **_: "mine")
    with pytest.raises(RouteConflict, match=r"pages\.own.*eventpoll\."):
        mine.register_blueprint(pages)


@pytest.mark.parametrize("rule", ["/<path:page>", "/<page>", "/docs/manual", "/streams", "/secevents"])
def test_a_route_that_hides_nothing_is_added(mine: Flask, rule: str) -> None:
    """A catch-all yields to what is more precise; another method, or another path, is nobody's business."""
    mine.add_url_rule("/early" + rule, "early", lambda **_: "mine")
    eventpoll.init_app(configured(mine))
    mine.add_url_rule(rule, "late", lambda **_: "mine", methods=["POST"] if rule == "/streams" else ["GET"])
    assert polled(mine.test_client()) == ["j"]
    assert mine.test_client().get("/healthz").get_json()["status"] == "ok"


def test_a_prefix_and_parts_leave_the_rest_to_the_bank(mine: Flask) -> None:
    """Issue 12, 3: init_app(app, settings, url_prefix, parts)."""
    mine.add_url_rule("/secevents/docs", "manual", lambda: "mine")
    eventpoll.init_app(configured(mine), url_prefix="/secevents/", parts=("polling", "bank"))
    client = mine.test_client()
    assert polled(client, "/secevents") == ["j"]
    for path in ("/events", "/secevents/healthz", "/secevents/metrics", "/secevents/console", "/streams"):
        assert client.get(path).data == b"<h1>Lost in the bank</h1>"
    assert client.get("/secevents/docs").data == b"mine"
    assert client.post("/secevents/open-banking/v3.1/events", json={}).data == b""
    assert list(client.post("/secevents/api/fs/event-notifications/events").get_json()) == [
        "error_description",
        "error",
    ]


def test_an_unknown_part_is_a_mistake(mine: Flask) -> None:
    """With the names of those that there are."""
    with pytest.raises(ValueError, match="unknown parts consoles: the parts are polling, bank, health"):
        eventpoll.init_app(configured(mine), parts=("polling", "consoles"))


def test_a_push_in_the_same_process_takes_and_raises_plain_python(mine: Flask, signing_keys: str) -> None:
    """docs/embedding.md: eventpoll.push needs no request and no application context."""
    mine.config.update(EVENTPOLL_ISSUER=ISSUER, EVENTPOLL_SIGNING_KEYS=signing_keys)
    eventpoll.init_app(configured(mine))
    with pytest.raises(LookupError, match="tpp has no stream"):
        eventpoll.push(mine, "tpp", events={"urn:test:event": {}})
    secret = json.loads(mine.test_client().put("/streams/tpp", headers=AS_BANK).text)["secret"]
    event = {"urn:test:event": {"amount": 1.5, "name": "Zoë"}}
    assert eventpoll.push(mine, "tpp", event, jti="a", sub="acc-1", toe=1516239022) == "a"
    assert eventpoll.push(mine, "tpp", event, jti="a", sub="acc-1", toe=1516239022) == "a"
    assert eventpoll.push(mine, "tpp", secevent=set_of("b")) == "b"
    reply = mine.test_client().post("/events", json={}, headers={"Authorization": basic("tpp", secret)})
    sets = reply.get_json()["sets"]
    assert list(sets) == ["a", "b"]
    claims = json.loads(base64.urlsafe_b64decode(sets["a"].split(".")[1] + "=="))
    assert (claims["events"], claims["sub"], claims["toe"]) == (event, "acc-1", 1516239022)


@pytest.mark.parametrize(
    ("tpp", "given", "text"),
    [
        ("tpp", {}, "events or secevent"),
        ("tpp", {"events": {"urn:a": {}}, "secevent": "x"}, "events or secevent"),
        ("tpp", {"events": {}}, "events"),
        ("tpp", {"events": {"urn:a": {}}, "subject": "x"}, "subject"),
        ("tpp", {"events": {"urn:a": {}}, "scope": "nothing"}, "scope"),
        ("tpp", {"secevent": "no SET"}, "SET"),
        ("tpp", {"secevent": "no SET", "jti": "a"}, "jti: a signed SET has its own claims"),
        ("no name", {"events": {"urn:a": {}}}, "the name of a TPP"),
    ],
)
def test_a_wrong_push_raises_value_error(
    mine: Flask, signing_keys: str, tpp: str, given: dict[str, Any], text: str
) -> None:
    """The text says what is wrong."""
    mine.config.update(EVENTPOLL_ISSUER=ISSUER, EVENTPOLL_SIGNING_KEYS=signing_keys)
    eventpoll.init_app(configured(mine))
    mine.test_client().put("/streams/tpp", headers=AS_BANK)
    with pytest.raises(ValueError, match=text):
        eventpoll.push(mine, tpp, **given)


def test_a_push_to_a_store_that_is_away_raises_connection_error() -> None:
    """It may be repeated with the same jti."""
    app = configured(Flask("away"))
    app.config["REDIS_URL"] = f"redis://127.0.0.1:{free_port()}"
    eventpoll.init_app(app)
    with pytest.raises(ConnectionError, match="the store is not available"):
        eventpoll.push(app, "tpp", secevent=set_of("a"))


def test_a_bank_that_mounts_it_is_warned_of_a_misspelt_name(caplog: pytest.LogCaptureFixture) -> None:
    """In the environment or in app.config: the application's log says so once, as gunicorn's does."""
    mine = Flask("bank")
    mine.config.update(EVENTPOLL_MAX_EVENT=5, EVENTPOLL_LONG_POLL_SECONDS=0)
    with caplog.at_level("WARNING", "eventpoll"):
        eventpoll.init_app(mine)
    assert [record.getMessage() for record in caplog.records] == [
        "'EVENTPOLL_MAX_EVENT' is no setting, and nothing reads it: is EVENTPOLL_MAX_EVENTS meant?"
    ]
