"""examples/: what a TPP and a bank may begin with works as it stands."""

import json
import os
import subprocess
import sys
from pathlib import Path

from harness import ROOT
from harness.service import BANK, ISSUER, Server
from harness.sets import set_of


def run(*command: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    names = ("PATH", "HOME", "LANG")
    plain = {name: os.environ[name] for name in names if name in os.environ}
    return subprocess.run(command, env={**plain, **environ}, capture_output=True, text=True, timeout=60)


def receive(server: Server, tpp: str) -> "subprocess.CompletedProcess[str]":
    receiver = str(ROOT / "examples/receiver.py")
    return run(sys.executable, receiver, server.url, tpp, server.secrets[tpp], ISSUER, "--once")


def test_the_receiver_verifies_works_and_acknowledges(shared_server: Server) -> None:
    """RFC 8936 section 2.4: what it could verify is settled, what it could not is reported with a reason."""
    shared_server.tpp("receives", audience="receives")
    events = [{"urn:test:event": {"n": number}} for number in range(3)]
    for each in events:
        shared_server.push("receives", events=each)
    forged = {"Content-Type": "application/secevent+jwt"}
    reply = shared_server.request("POST", "/streams/receives/sets", set_of("forged"), forged, BANK)
    assert reply.status == 202
    done = receive(shared_server, "receives")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == events
    told = shared_server.bank("GET", "/streams/receives").json
    assert (told["pending"], told["in_flight"], told["parked"], told["acked"]) == (0, 0, 1, 3)
    (parked,) = shared_server.bank("GET", "/streams/receives/sets?state=parked").json["sets"]
    assert parked["jti"] == "forged"
    assert parked["description"]


def test_the_receiver_takes_no_set_for_another(shared_server: Server) -> None:
    """RFC 8417 section 2.2: aud says for whom a SET is."""
    shared_server.tpp("not-for-us", audience="somebody-else")
    jti = shared_server.push("not-for-us")
    assert receive(shared_server, "not-for-us").stdout == ""
    (parked,) = shared_server.bank("GET", "/streams/not-for-us/sets?state=parked").json["sets"]
    assert (parked["jti"], parked["description"]) == (jti, "not from this bank, or not for us")


def test_curl_polls_and_acknowledges(shared_server: Server) -> None:
    """A shell is enough to see what waits."""
    shared_server.tpp("curls")
    for jti in ("one", "two"):
        shared_server.push("curls", jti)
    poll = str(ROOT / "examples/poll.sh")
    environ = {"URL": shared_server.url, "TPP": "curls", "SECRET": shared_server.secrets["curls"]}
    assert list(json.loads(run(poll, **environ).stdout)["sets"]) == ["one", "two"]
    assert list(json.loads(run(poll, "one", **environ).stdout)["sets"]) == ["two"]
    assert json.loads(run(poll, "two", "one", **environ).stdout) == {"sets": {}, "moreAvailable": False}
    wrong = run(poll, **{**environ, "SECRET": "wrong"})
    assert wrong.returncode != 0
    assert "authentication_failed" in wrong.stdout


def test_a_loop_pushes_a_folder_of_events_once(shared_server: Server, tmp_path: Path) -> None:
    """Safe to run again; what cannot be pushed stays, and is told."""
    shared_server.tpp("looped")
    for name in ("b", "a"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"urn:test:event": {"name": name}}))
    (tmp_path / "bad.json").write_text("no JSON")
    push = str(ROOT / "examples/push-all.sh")
    environ = {"URL": shared_server.url, "BANK": ":".join(BANK)}
    done = run(push, "looped", str(tmp_path), **environ)
    assert (done.returncode, done.stdout) == (1, "a: pushed\nb: pushed\n")
    assert done.stderr.startswith("bad: 400 ")
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["bad.json"]
    (tmp_path / "sent/a.json").rename(tmp_path / "a.json")  # its answer was lost, say
    (tmp_path / "bad.json").unlink()
    assert run(push, "looped", str(tmp_path), **environ).returncode == 0
    assert list(shared_server.poll("looped").json["sets"]) == ["a", "b"]
