"""Whether the keys of one stream agree with each other, as docs/redis-layout.md says that they do."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from chaos.picture import Stream

LANE = 2**51


def disorder(stream: Stream) -> Iterator[str]:
    """What is not in order, a line each."""
    places = Counter(
        jti
        for state in (stream.pending, stream.inflight, stream.parked, stream.settled, stream.settled_before)
        for jti in state
    )
    yield from (f"{jti} is in {count} states" for jti, count in places.items() if count > 1)
    for what, one, other in (
        ("sets, and not outstanding", stream.sets.keys(), stream.outstanding),
        ("inflight_order, and not inflight", stream.inflight_order.keys(), stream.inflight.keys()),
        ("leases, and not inflight", stream.leases.keys(), stream.inflight.keys()),
        ("parked_order, and not parked", stream.parked_order.keys(), stream.parked.keys()),
    ):
        yield from (f"{jti} is in {what}, or the other way round" for jti in one ^ other)
    yield from (f"{jti} is requeued, and not pending" for jti in stream.requeued.keys() - stream.pending.keys())
    orders = {jti: place % LANE for jti, place in stream.pending.items()}
    for records, order in ((stream.inflight, stream.inflight_order), (stream.parked, stream.parked_order)):
        for jti, record in records.items():
            orders[jti] = int(record.split(" ", 1)[0]) % LANE
            if orders[jti] != order.get(jti):
                yield f"{jti} has another order in its record"
    for jti, record in stream.requeued.items():
        if stream.pending.get(jti) != int(record.split(" ", 1)[0]):
            yield f"{jti} has another place in requeued"
    ended = [int(record.split(" ", 2)[1]) % LANE for record in stream.ended.values()]
    every = sorted([*orders.values(), *ended])
    yield from (f"two SETs have the order {one}" for one, other in pairwise(every) if one == other)
    if every and every[-1] > int(stream.stream.get("last_order", 0)):
        yield "last_order is behind"
