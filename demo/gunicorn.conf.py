"""`make run`: the service as it is, with a demo bank, and a demo TPP with UK Open Banking SETs on its stream."""

import importlib.util
import json
import shlex
import socket
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TPP, SECRET = "demo-tpp", "demo-secret"  # public: the README prints them
CONSENT = "https://bank.example/open-banking/v4.0/aisp/account-access-consents/aac-1234-007"

sys.path.insert(0, str(ROOT))
from demo.settings import DATA, fill_in  # noqa: E402


def _port_is_free(port: int) -> None:
    """Exit with a message if the port is in use. gunicorn would say so only after five tries."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            reason = error.strerror or "it cannot be had"
            sys.exit(f"Port {port} cannot be used ({reason}). Stop what uses it, or take another: make run PORT=8001")


fill_in()
_main = importlib.util.spec_from_file_location("gunicorn_conf", ROOT / "gunicorn.conf.py")
assert _main is not None
assert _main.loader is not None
_module = importlib.util.module_from_spec(_main)
_main.loader.exec_module(_module)
globals().update({name: getattr(_module, name) for name in dir(_module) if not name.startswith("_")})
_port_is_free(_module.settings.port)
bind = f"127.0.0.1:{_module.settings.port}"


def when_ready(server: Any) -> None:
    """Fill the demo stream if no SET waits on it, and print commands to try."""
    _module.when_ready(server)
    from eventpoll.access import door
    from eventpoll.service import Service
    from eventpoll.sets.event import BadSecevent, Event
    from eventpoll.store.errors import Unavailable

    transmitter = Service.build(_module.settings).transmitter
    try:
        if not transmitter.configure(TPP, door.hash_of(SECRET), {}):
            transmitter.store.rotate(TPP, door.hash_of(SECRET), 0)
        status = transmitter.status(TPP)
        if status.pending + status.in_flight == 0:
            before = int(status.fields.get("pushed", 0))
            for number, events in enumerate(demo_events(), before + 1):
                jti = f"demo-{number}"
                claims = {"sub": json.dumps(CONSENT), "txn": json.dumps(jti), "toe": "1516239022"}
                transmitter.push(TPP, Event(json.dumps(events), claims, jti))
            status = transmitter.status(TPP)
        fresh, again = transmitter.peek(TPP, "pending", 1), transmitter.peek(TPP, "in_flight", 1)
        first = (fresh or again)[0].jti
    except (Unavailable, BadSecevent) as error:
        server.log.error("No demo: %s", error)
        return
    finally:
        transmitter.store.redis.close()
    bank = f"{_module.settings.bank_username}:{_module.settings.bank_password}"
    url = f"http://127.0.0.1:{_module.settings.port}"
    print(screen(url, bank, status.pending + status.in_flight, first), flush=True)


def demo_events() -> list[dict[str, Any]]:
    """Return three events that OBIE's specification describes."""
    ob, urn = "http://openbanking.org.uk/", "urn:uk:org:openbanking:events:"
    subject = {
        "subject_type": f"{ob}rid_{ob}rty",
        f"{ob}rid": "aac-1234-007",
        f"{ob}rty": "account-access-consent",
        f"{ob}rlk": [{"version": "v4.0", "link": CONSENT}],
    }
    return [
        {f"{urn}resource-update": {"subject": subject}},
        {f"{urn}consent-authorization-revoked": {"subject": subject}},
        {f"{urn}account-access-consent-linked-account-update": {"reason": "UK.OBIE.CASS", "subject": subject}},
    ]


def screen(url: str, bank: str, waiting: int, jti: str) -> str:
    """Return the text with the commands to paste. `jti` is the SET that the first poll returns first."""
    tpp, bank = shlex.quote(f"{TPP}:{SECRET}"), shlex.quote(bank)
    json_type = "-H 'Content-Type: application/json'"
    request = b64encode(b'{"maxEvents": 3}').decode()
    event = json.dumps({"events": {"urn:uk:org:openbanking:events:resource-update": {"subject": "acc-1"}}})
    return f"""
eventpoll serves on {url}. SETs that wait for the TPP {TPP}: {waiting}. Try, in another terminal:

  poll: fetch up to two SETs
    curl -s -u {tpp} {json_type} -d '{{"maxEvents": 2, "returnImmediately": true}}' {url}/events

  ack: settle the first of them for good, and fetch no more
    curl -s -u {tpp} {json_type} -d '{{"ack": ["{jti}"], "maxEvents": 0, "returnImmediately": true}}' {url}/events

  the same poll as OBIE has it, and as WSO2 has it (base64 of {{"maxEvents": 3}})
    curl -s -u {tpp} {json_type} -d '{{"returnImmediately": true}}' {url}/open-banking/v4.0/events
    curl -s -u {tpp} --data-urlencode 'request={request}' {url}/api/openbanking/event-notifications/events

  push, as the bank: mint an event and queue it
    curl -s -u {bank} {json_type} -d '{event}' {url}/streams/{TPP}/sets

  how the stream stands
    curl -s -u {bank} {url}/streams/{TPP}

  the operator's commands, with this store and these keys
    echo 'eventpoll streams' | make shell

In a browser: {url}/console for the bank's operators ({bank}), {url}/docs for every call.
Ctrl-C stops everything. What is queued stays in {DATA}/ for the next time.
"""
