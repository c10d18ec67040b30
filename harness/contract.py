"""Check answers against /openapi.json: status, media type, headers and body."""

import base64
import copy
import json
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from eventpoll.api.openapi import document

WHERE = "urn:eventpoll"
PATHS = [
    (re.compile(re.sub(r"\{tpp\}", "[^/]+", re.sub(r"\{jti\}", ".+", path))), path)
    for path in sorted(document()["paths"], key=len, reverse=True)
]


def closed(shape: Any) -> Any:
    """Return the schemas, changed to refuse members that they do not name. So a check finds undocumented members."""
    if isinstance(shape, list):
        return [closed(each) for each in shape]
    if not isinstance(shape, dict):
        return shape
    inside = {name: closed(each) for name, each in shape.items()}
    if shape.get("type") == "object" and "properties" in shape and "kty" not in shape["properties"]:
        inside.setdefault("additionalProperties", False)
    return inside


@lru_cache(maxsize=1)
def registry() -> Registry[Any]:
    """Return a registry that resolves the references between the document's schemas."""
    told = copy.deepcopy(document())
    told["components"]["schemas"] = closed(told["components"]["schemas"])
    found: Registry[Any] = Registry().with_resource(WHERE, DRAFT202012.create_resource(told))
    return found


@cache
def validator(*pointer: str) -> Validator:
    """Return a validator for the schema at the place `pointer` of the document."""
    place = "/".join(part.replace("~", "~0").replace("/", "~1") for part in pointer)
    return Draft202012Validator({"$ref": f"{WHERE}#/{place}"}, registry=registry())


def path_of(path: str) -> str | None:
    """Return the path of the document that a request's path matches, or None."""
    bare = path.partition("?")[0]
    return next((template for pattern, template in PATHS if pattern.fullmatch(bare)), None)


def check(method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Raise AssertionError if the document has no such answer. Ignore requests for which it has no call."""
    template = path_of(path)
    call = document()["paths"].get(template or "", {}).get(method.lower())
    if template is None or call is None:
        return
    where = f"{method} {path}: {status}"
    told = call["responses"].get(str(status))
    assert told is not None, f"{where} is not documented: {body[:200]!r}"
    assert "x-fapi-interaction-id" in headers, where
    for name in {"WWW-Authenticate", "Retry-After"} & set(told["headers"]):
        if status != 403:  # a 403 has the header only for a token without a scope
            assert name.lower() in headers, f"{where} has no {name}"
    kind = headers.get("content-type", "").partition(";")[0]
    if not told.get("content"):
        assert body == b"", where
        return
    assert kind in told["content"], f"{where}: {kind}"
    if kind == "application/x-ndjson":
        pointer, values = ("components", "schemas", "BatchResult"), [json.loads(line) for line in body.splitlines()]
    elif kind == "application/json":
        pointer = ("paths", template, method.lower(), "responses", str(status), "content", kind, "schema")  # type: ignore[assignment]
        values = [json.loads(body)]
    else:
        return
    for value in values:
        mistakes = list(validator(*pointer).iter_errors(value))
        assert not mistakes, f"{where}: {mistakes[0].json_path}: {mistakes[0].message[:500]}"


def unpacked(content: Mapping[str, Any], value: Any) -> Any:
    """Return the JSON that WSO2's form holds in base64. Return any other value unchanged."""
    if "request" not in content["schema"].get("properties", {}):
        return value
    return json.loads(base64.b64decode(value["request"]))
