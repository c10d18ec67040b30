"""The poll on a real server, end to end."""

from harness.service import Server


def test_a_set_pushed_is_polled_and_gone_after_its_ack(shared_server: Server) -> None:
    """From the bank's push to the TPP's ack, in one breath."""
    shared_server.tpp("e2e")
    jti = shared_server.push("e2e")
    first = shared_server.poll("e2e", {"returnImmediately": True})
    assert list(first.json["sets"]) == [jti]
    assert first.json["moreAvailable"] is False
    second = shared_server.poll("e2e", {"ack": [jti], "returnImmediately": True})
    assert second.json == {"sets": {}, "moreAvailable": False}
