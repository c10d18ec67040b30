"""Ensure that no route of a bank's application hides a route of eventpoll, and the reverse."""

import uuid
from collections.abc import Iterator
from itertools import product

from werkzeug.exceptions import HTTPException
from werkzeug.routing import BuildError, Map, RequestRedirect, Rule, RuleFactory

SAMPLES = ("x", 1, 1.5, uuid.UUID(int=0))
"""Values for the arguments of a route, one for each of Werkzeug's converters."""


class RouteConflict(Exception):
    """Routes of the application and of eventpoll answer the same path. The message has a line for each pair."""


def keep_apart(url_map: Map, name: str) -> None:
    """Raise RouteConflict if a route of the blueprint `name` and another of `url_map` answer the same path.

    Check routes that the application adds later, too: the line that adds a conflicting route raises RouteConflict.
    Without this check the first route wins, and nobody notices that the other is never called.
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
    """Raise RouteConflict if a route of ours answers a path of theirs, with a line for each such pair.

    A catch-all of the application (`/<path:page>`) is no conflict, because Werkzeug prefers the more precise route.
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
            return True  # Werkzeug redirects to the same path with a slash
        except HTTPException:
            continue
        return True
    return False


def _paths(rule: Rule) -> Iterator[str]:
    """Yield paths that a route answers, made with sample values for its arguments."""
    names = sorted(rule.arguments - (rule.defaults or {}).keys())
    for values in product(SAMPLES, repeat=len(names)):
        try:
            built = rule.build(dict(zip(names, values, strict=True)), append_unknown=False)
        except (BuildError, ValueError, TypeError):
            continue  # a converter of the route does not accept this sample
        if built is not None:
            yield built[1]
