"""The checks: what the journal says was promised, against the journal itself and against the picture of the store.

Each check tells what it found broken, a line each. What a takeover by a replica may have lost is not broken, but is
counted: in `excused`, by kind. With one server and appendfsync always nothing is excused.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from chaos.journal import Journal, Poll
from chaos.order import disorder
from chaos.picture import Picture, Stream
from chaos.served import neglect


@dataclass
class Verdict:
    """What was found."""

    broken: list[str] = field(default_factory=list)
    excused: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))  # and when it was answered

    def note(self, kind: str, text: str, excuse: bool = False, at: float = 0.0) -> None:
        """Write down one violation, or one loss that was told of beforehand."""
        if excuse:
            self.excused[kind].setdefault(text, at)
        elif f"{kind}: {text}" not in self.broken:
            self.broken.append(f"{kind}: {text}")


def judge(journal: Journal, before: Picture, after: Picture, documented: Mapping[str, set[int]]) -> Verdict:
    """All checks: `before` is the store when the load had ended, `after` when every SET was fetched and settled."""
    verdict = Verdict()
    for picture in (before, after):
        then = journal.until(picture.at)
        lost_pushes(then, picture, verdict)
        lost_entries(then, picture, verdict)
        lost_ends(then, picture, verdict)
        states(picture, verdict)
        counters(then, picture, verdict)
    late_deliveries(journal, verdict)
    parked_deliveries(journal, verdict)
    foreign(journal, verdict)
    changed(journal, verdict)
    queued_twice(journal, verdict)
    minted_twice(journal, verdict)
    too_many(journal, verdict)
    leases(journal, verdict)
    statuses(journal, documented, verdict)
    drained(after, verdict)
    for kind, text in neglect(journal):
        verdict.note(kind, text)
    return verdict


# -- 1. nothing that was accepted is lost -----------------------------------------------------------------------------


def lost_pushes(journal: Journal, picture: Picture, verdict: Verdict) -> None:
    """A push answered 2xx is outstanding, or was ended by someone who asked for that."""
    taken: dict[tuple[str, str], float] = {}
    for push in journal.pushes:
        if push.taken:
            taken[push.tpp, push.jti] = max(push.answered, taken.get((push.tpp, push.jti), 0.0))
        elif push.status == 409:
            verdict.note("conflict", f"{push.jti} of {push.tpp}: a repeat of the same was told to be another")
    for (tpp, jti), at in taken.items():
        stream = picture.streams.get(tpp, Stream())
        if jti not in stream.outstanding and jti not in stream.ended:
            verdict.note("lost push", f"{jti} of {tpp}", journal.lossy(at) and not journal.waits, at)
    asked = {(poll.tpp, jti) for poll in journal.polls for jti in poll.ack}
    asked |= {(care.tpp, care.jti) for care in journal.cares if care.what == "discard"}
    for tpp, stream in picture.streams.items():
        for jti in stream.ended:
            if (tpp, jti) not in asked:
                verdict.note("ended unasked", f"{jti} of {tpp}: nobody acknowledged or discarded it")


def lost_entries(journal: Journal, picture: Picture, verdict: Verdict) -> None:
    """An entry of the inbox that was taken is a SET, under a jti made from its id; none is left, none is dead."""
    for entry in journal.entries:
        stream, jti = picture.streams.get(entry.tpp, Stream()), f"inbox-{entry.number}"
        if entry.number and jti not in stream.outstanding and jti not in stream.ended:
            verdict.note("lost entry", f"{entry.number} of {entry.tpp}", journal.lossy(entry.answered), entry.answered)
    for number in picture.inbox:
        verdict.note("left entry", f"{number} was never minted")
    for fields in picture.dead:
        verdict.note("dead entry", str(fields))


def ends(journal: Journal) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """When the answer to each ack and discard that holds was there: (answered, asked)."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for poll in journal.polls:
        if poll.settled:
            for jti in poll.ack:
                found[poll.tpp, jti].append((poll.answered, poll.asked))
    for care in journal.cares:
        if care.what == "discard" and care.status == 204:
            found[care.tpp, care.jti].append((care.answered, care.sent))
    return found


def lost_ends(journal: Journal, picture: Picture, verdict: Verdict) -> None:
    """A SET whose ack was answered is ended."""
    for (tpp, jti), moments in ends(journal).items():
        if jti in picture.streams.get(tpp, Stream()).outstanding:
            last = max(at for at, _ in moments)
            verdict.note("lost ack", f"{jti} of {tpp}", all(journal.lossy(at) for at, _ in moments), last)


# -- 2, 3. who gets what, and when ------------------------------------------------------------------------------------


def deliveries(journal: Journal) -> Iterator[tuple[Poll, str]]:
    """Each SET that came, with the poll that it came by."""
    for poll in journal.polls:
        for one in poll.sets:
            yield poll, one.jti


def late_deliveries(journal: Journal, verdict: Verdict) -> None:
    """No SET comes by a poll that began after its ack was answered."""
    ended = ends(journal)
    for poll, jti in deliveries(journal):
        earlier = [at for at, _ in ended.get((poll.tpp, jti), ()) if at < poll.asked]
        if earlier:
            verdict.note("came after its ack", f"{jti} of {poll.tpp}", all(map(journal.lossy, earlier)), max(earlier))


def parked_deliveries(journal: Journal, verdict: Verdict) -> None:
    """No SET comes by a poll that began after it was reported, unless the bank asked for it to be requeued."""
    reported: dict[tuple[str, str], list[float]] = defaultdict(list)
    for poll in journal.polls:
        if poll.settled:
            for jti in poll.errs:
                reported[poll.tpp, jti].append(poll.answered)
    requeued: dict[tuple[str, str], list[float]] = defaultdict(list)
    for care in journal.cares:
        if care.what == "requeue":
            requeued[care.tpp, care.jti].append(care.sent)
    for poll, jti in deliveries(journal):
        earlier = [at for at in reported.get((poll.tpp, jti), ()) if at < poll.asked]
        if earlier and not any(at < poll.answered for at in requeued.get((poll.tpp, jti), ())):
            verdict.note("came while parked", f"{jti} of {poll.tpp}", all(map(journal.lossy, earlier)))


def foreign(journal: Journal, verdict: Verdict) -> None:
    """A SET's own mark names the TPP that gets it."""
    for poll in journal.polls:
        for one in poll.sets:
            if one.mark.partition("/")[0] != poll.tpp:
                verdict.note("foreign hands", f"{one.jti}, marked {one.mark!r}, came to {poll.tpp}")


def changed(journal: Journal, verdict: Verdict) -> None:
    """A SET is the same bytes at every delivery; one that was lost and pushed anew is minted anew."""
    first: dict[tuple[str, str], bytes] = {}
    excuse = any(fault.may_lose for fault in journal.faults)
    for poll in journal.polls:
        for one in poll.sets:
            if first.setdefault((poll.tpp, one.jti), one.digest) != one.digest:
                verdict.note("changed", f"{one.jti} of {poll.tpp} has other bytes than before", excuse)


# -- 4. the store is in order -----------------------------------------------------------------------------------------


def states(picture: Picture, verdict: Verdict) -> None:
    """Every SET is in exactly one state, and every key says what the others say (docs/redis-layout.md)."""
    for key in picture.strange:
        verdict.note("orphan key", key)
    for tpp in picture.listed ^ {name for name, stream in picture.streams.items() if stream.stream}:
        verdict.note("orphan stream", f"{tpp} is listed, or there, and not both")
    for tpp, stream in picture.streams.items():
        for fault in disorder(stream):
            verdict.note("disorder", f"{tpp}: {fault}")


def counters(journal: Journal, picture: Picture, verdict: Verdict) -> None:
    """Each jti was counted once as it came, and once as it ended; what was seen to be delivered was counted."""
    seen = Counter(poll.tpp for poll, _ in deliveries(journal))
    replicated = any(fault.may_lose for fault in journal.faults)
    if picture.taken:
        verdict.note("counter", f"{picture.taken} entries of the inbox are still taken")
    for tpp, stream in picture.streams.items():
        count = {
            name: int(stream.stream.get(name, 0)) for name in ("pushed", "acked", "discarded", "expired", "delivered")
        }
        there = len(stream.outstanding) + len(stream.ended)
        if count["pushed"] != there:
            verdict.note("counter", f"{tpp}: pushed is {count['pushed']}, and {there} SETs are known")
        ended = count["acked"] + count["discarded"] + count["expired"]
        if ended != len(stream.ended):
            verdict.note("counter", f"{tpp}: {ended} are counted as ended, and {len(stream.ended)} are")
        if not replicated and count["delivered"] < seen[tpp]:
            verdict.note("counter", f"{tpp}: {seen[tpp]} came, and {count['delivered']} are counted")


# -- 5, 6. once, and no more than asked for ---------------------------------------------------------------------------


def queued_twice(journal: Journal, verdict: Verdict) -> None:
    """Of all pushes of one jti, one is told that it is new (201)."""
    news: dict[tuple[str, str], list[float]] = defaultdict(list)
    for push in journal.pushes:
        if push.status == 201:
            news[push.tpp, push.jti].append(push.answered)
    for (tpp, jti), moments in news.items():
        if len(moments) > 1:
            verdict.note("queued twice", f"{jti} of {tpp}", any(map(journal.lossy, sorted(moments)[:-1])))


def minted_twice(journal: Journal, verdict: Verdict) -> None:
    """An entry of the inbox is one SET, under one jti, and none that was refused is a SET."""
    refused = {entry.mark for entry in journal.entries if entry.refused}
    marked: dict[str, set[str]] = defaultdict(set)
    for poll in journal.polls:
        for one in poll.sets:
            marked[one.mark].add(one.jti)
    for mark, jtis in marked.items():
        if len(jtis) > 1:
            verdict.note("minted twice", f"{mark}: {sorted(jtis)}")
        if mark in refused:
            verdict.note("minted though refused", mark)


def too_many(journal: Journal, verdict: Verdict) -> None:
    """maxEvents is never passed."""
    for poll in journal.polls:
        if len(poll.sets) > poll.most:
            verdict.note("too many", f"{len(poll.sets)} came to {poll.tpp}, who asked for {poll.most}")


def leases(journal: Journal, verdict: Verdict) -> None:
    """Within its lease a SET is handed out once. Times are the clients', so only what cannot be otherwise counts."""
    came: dict[tuple[str, str], list[Poll]] = defaultdict(list)
    for poll, jti in deliveries(journal):
        if poll.lease:
            came[poll.tpp, jti].append(poll)
    freed = {(care.tpp, care.jti) for care in journal.cares}
    for (tpp, jti), polls in came.items():
        if (tpp, jti) in freed:
            continue
        for one, other in pairwise(sorted(polls, key=lambda poll: poll.answered)):
            first, last = min(one.asked, other.asked), max(one.answered, other.answered)
            if last - first < one.lease:
                verdict.note("lease", f"{jti} came twice to {tpp} within it", journal.stepped(first, last))


# -- 7, 8. nothing is left, and nothing strange was answered ----------------------------------------------------------


def statuses(journal: Journal, documented: Mapping[str, set[int]], verdict: Verdict) -> None:
    """Every answer is one that /openapi.json tells of, and none is our mistake."""
    for (call, status), count in Counter((each.call, each.status) for each in journal.answers).items():
        if status is not None and (status == 500 or status not in documented.get(call, set())):
            verdict.note("status", f"{call}: {status}, {count} times")


def drained(picture: Picture, verdict: Verdict) -> None:
    """When all is settled, nothing is outstanding."""
    for tpp, stream in picture.streams.items():
        if stream.outstanding:
            verdict.note(
                "not drained", f"{tpp}: {len(stream.outstanding)} SETs never came, such as {min(stream.outstanding)}"
            )


def emptied(picture: Picture, keys: int, grown: int, allowed: int, verdict: Verdict) -> None:
    """When ended jtis are forgotten too, a stream is one key, and the data set is as small as it was before the load:
    `keys` there are now, `grown` bytes more than then."""
    left = [
        f"{tpp}:{name}"
        for tpp, stream in picture.streams.items()
        for name, value in vars(stream).items()
        if name != "stream" and value
    ]
    for key in left:
        verdict.note("left key", key)
    most = len(picture.streams) + 4  # and what spans streams
    if keys > most:
        verdict.note("left keys", f"{keys}, and at most {most} are to be there")
    if grown > allowed:
        verdict.note("memory", f"the data set has grown by {grown} bytes")
