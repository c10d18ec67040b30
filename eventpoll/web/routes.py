"""No route of a bank's application hides one of eventpoll's, and none of eventpoll's hides one of the bank's."""

import uuid
from collections.abc import Iterator
from itertools import product

from werkzeug.exceptions import HTTPException
from werkzeug.routing import BuildError, Map, RequestRedirect, Rule, RuleFactory

SAMPLES = ("x", 1, 1.5, uuid.UUID(int=0))
"""Values for the arguments of a route, one for each of Werkzeug's converters."""


class RouteConflict(Exception):
    """Routes of the application and of eventpoll answer the same path; a line for each pair."""


def keep_apart(url_map: Map, name: str) -> None:
    """Raise RouteConflict where routes of the blueprint `name` and others of `url_map` answer the same path.

    Watch the map from now on, too: a route that the application adds later, and that conflicts, raises in the line that
    adds it. Without that the route that was added first wins, and nobody learns of the other.
    """
    ours = [rule for rule in url_map.iter_rules() if rule.endpoint.startswith(f"{name}.")]
    _refuse(ours, [rule for rule in url_map.iter_rules() if not rule.endpoint.startswith(f"{name}.")])
    add = url_map.add

    def add_apart(factory: RuleFactory) -> None:
        before = {id(rule) for rule in url_map.iter_rules()}
        add(factory)
        _refuse(ours, [rule for rule in url_map.iter_rules() if id(rule) not in before])

    url_map.add = add_apart  # type: ignore[method-assign,assignment]


def _refuse(ours: list[Rule], theirs: list[Rule]) -> None:
    """Raise RouteConflict for each pair in which a route of ours answers a path of theirs.

    A catch-all of the application's (`/<path:page>`) is no conflict: Werkzeug prefers the more precise route.
    """
    lines = []
    for other in theirs:
        for rule in ours:
            methods = (other.methods or set()) & (rule.methods or set()) - {"HEAD", "OPTIONS"}
            if methods and _answers(rule, other, min(methods)):
                lines.append(
                    f"{min(methods)} {other.rule} ({other.endpoint}) and {rule.rule} ({rule.endpoint}) answer the same "
                    "path: give eventpoll.init_app a url_prefix, or parts without this one"
                )
    if lines:
        raise RouteConflict("\n".join(lines))


def _answers(rule: Rule, other: Rule, method: str) -> bool:
    """Return whether `rule` matches a path of `other` on the same host."""
    if (rule.subdomain, rule.host) != (other.subdomain, other.host):
        return False
    adapter = Map([rule.empty()], converters=dict(rule.map.converters)).bind("localhost")
    for path in _paths(other):
        try:
            adapter.match(path, method)
        except RequestRedirect:
            return True  # to the same path with a slash
        except HTTPException:
            continue
        return True
    return False


def _paths(rule: Rule) -> Iterator[str]:
    """Yield paths that a route answers, with samples for its arguments."""
    names = sorted(rule.arguments - (rule.defaults or {}).keys())
    for values in product(SAMPLES, repeat=len(names)):
        try:
            built = rule.build(dict(zip(names, values, strict=True)), append_unknown=False)
        except (BuildError, ValueError, TypeError):
            continue  # a sample that a converter of the route does not take
        if built is not None:
            yield built[1]
