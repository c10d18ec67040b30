"""The settings of `make run` and of `make shell`: one bank, one key, one store for both."""

import json
import os
from pathlib import Path

DATA = Path(".data")
DEMO = {
    "EVENTPOLL_BANK_USERNAME": "bank",
    "EVENTPOLL_BANK_PASSWORD": "bank-secret",
    "EVENTPOLL_ISSUER": "https://bank.example",
    "EVENTPOLL_SIGNING_KEYS": str(DATA / "demo-keys.json"),
}


def fill_in() -> None:
    """Set the variables that the environment does not set, and make the signing key if there is none."""
    for name, value in DEMO.items():
        if not os.environ.get(name) and not os.environ.get(f"{name}_FILE"):
            os.environ[f"{name}_FILE" if name.endswith("KEYS") else name] = value
    file = Path(DEMO["EVENTPOLL_SIGNING_KEYS"])
    DATA.mkdir(mode=0o700, exist_ok=True)
    if not file.exists():
        from joserfc.jwk import RSAKey

        file.touch(mode=0o600)
        key = RSAKey.generate_key(2048, {"kid": "demo-1", "use": "sig"})
        file.write_text(json.dumps({"keys": [key.as_dict(private=True)]}), encoding="utf-8")
