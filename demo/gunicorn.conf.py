"""`make run`: the service as it is, with a bank of its own and a demo TPP for whom UK Open Banking SETs wait."""

import importlib.util
import json
import os
import shlex
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(".data")
TPP, BANK, PASSWORD = "demo-tpp", "bank", "bank-secret"
CONSENT = "https://bank.example/open-banking/v4.0/aisp/account-access-consents/aac-1234-007"

sys.path.insert(0, str(ROOT))
DEMO = {
    "EVENTPOLL_BANK_USERNAME": BANK,
    "EVENTPOLL_BANK_PASSWORD": PASSWORD,
    "EVENTPOLL_ISSUER": "https://bank.example",
    "EVENTPOLL_SIGNING_KEYS_FILE": str(DATA / "demo-keys.json"),
}


def _signing_keys() -> None:
    from joserfc.jwk import RSAKey

    file = DATA / "demo-keys.json"
    DATA.mkdir(mode=0o700, exist_ok=True)
    if not file.exists():
        file.touch(mode=0o600)
        key = RSAKey.generate_key(2048, {"kid": "demo-1", "use": "sig"})
        file.write_text(json.dumps({"keys": [key.as_dict(private=True)]}), encoding="utf-8")


_main = importlib.util.spec_from_file_location("gunicorn_conf", ROOT / "gunicorn.conf.py")
for name, value in DEMO.items():
    os.environ.setdefault(name, value)
_signing_keys()
assert _main is not None
assert _main.loader is not None
_module = importlib.util.module_from_spec(_main)
_main.loader.exec_module(_module)
globals().update({name: getattr(_module, name) for name in dir(_module) if not name.startswith("_")})
bind = f"127.0.0.1:{_module.settings.port}"


def when_ready(server: Any) -> None:
    """Fill the demo stream, and say what to try."""
    _module.when_ready(server)
    from eventpoll import auth
    from eventpoll.secevent import Event
    from eventpoll.service import Service
    from eventpoll.store import Unavailable

    transmitter = Service.build(_module.settings).transmitter
    secret = auth.new_secret()
    try:
        if not transmitter.configure(TPP, auth.hash_of(secret), {}):
            transmitter.store.rotate(TPP, auth.hash_of(secret), 0)
        for number, events in enumerate(demo_events(), 1):
            claims = {"sub": json.dumps(CONSENT), "txn": json.dumps(f"demo-{number}"), "toe": "1516239022"}
            jti, _ = transmitter.push_event(TPP, Event(json.dumps(events), claims))
        pending = transmitter.status(TPP).pending
    except Unavailable as error:
        server.log.error("No demo: %s", error)
        return
    transmitter.store.redis.close()
    print(screen(f"http://127.0.0.1:{_module.settings.port}", secret, pending, jti), flush=True)


def demo_events() -> list[dict[str, Any]]:
    """Three events that OBIE's specification tells of."""
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


def screen(url: str, secret: str, pending: int, jti: str) -> str:
    """What to paste."""
    tpp, bank = shlex.quote(f"{TPP}:{secret}"), shlex.quote(f"{BANK}:{PASSWORD}")
    json_type = "-H 'Content-Type: application/json'"
    request = b64encode(b'{"maxEvents": 3}').decode()
    event = json.dumps({"events": {"urn:uk:org:openbanking:events:resource-update": {"subject": "acc-1"}}})
    return f"""
eventpoll serves on {url}. The TPP {TPP} has {pending} SETs waiting. Try, in another terminal:

  poll: fetch up to two SETs
    curl -s -u {tpp} {json_type} -d '{{"maxEvents": 2, "returnImmediately": true}}' {url}/events

  ack: settle one of them for good (this is the youngest one), and fetch no more
    curl -s -u {tpp} {json_type} -d '{{"ack": ["{jti}"], "maxEvents": 0, "returnImmediately": true}}' {url}/events

  the same poll as OBIE has it, and as WSO2 has it (base64 of {{"maxEvents": 3}})
    curl -s -u {tpp} {json_type} -d '{{"returnImmediately": true}}' {url}/open-banking/v4.0/events
    curl -s -u {tpp} --data-urlencode 'request={request}' {url}/api/openbanking/event-notifications/events

  push, as the bank: mint an event and queue it
    curl -s -u {bank} {json_type} -d '{event}' {url}/streams/{TPP}/sets

  how the stream stands
    curl -s -u {bank} {url}/streams/{TPP}

Ctrl-C stops everything. What is queued stays in {DATA}/ for the next time.
"""
