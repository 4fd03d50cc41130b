"""Whether a value holds a JSON schema that a client wrote.

Pure. The schema comes from a stranger: a remote `$ref` is never fetched (the
library would, by default), a pattern is never run (a regular expression can be
made to take hours), and a schema that is itself broken says nothing about the
model, so it finds no fault. An agent sends the same schemas with every call, so
checked ones are kept.
"""

import re
from functools import lru_cache
from typing import Any

import orjson
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

KEPT = 1024  # schemas

_Validator: Any = validators.extend(  # type: ignore[no-untyped-call]
    Draft202012Validator, {"pattern": None}
)


def first_fault(schema: dict[str, Any], value: Any) -> str | None:
    """What is wrong with `value` first, or None."""
    try:
        validator = _validator(orjson.dumps(schema))
        faults = validator.iter_errors(value) if validator else ()
        fault = next((found for found in faults if not _has_default(found)), None)
    except (orjson.JSONEncodeError, Unresolvable, re.error, RecursionError):
        return None
    if fault is None:
        return None
    # The message quotes the value; the path and the rule are enough, and hold no traffic.
    return f"{fault.json_path} breaks '{fault.validator}'"


def _has_default(fault: ValidationError) -> bool:
    """Whether all that is missing has a default, as in OpenAI's strict schemas: no fault."""
    if fault.validator != "required" or not isinstance(fault.schema, dict):
        return False
    properties = _dict(fault.schema.get("properties"))
    required: Any = fault.validator_value
    missing = [name for name in required if name not in _dict(fault.instance)]
    return all("default" in _dict(properties.get(name)) for name in missing)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


@lru_cache(maxsize=KEPT)
def _validator(schema: bytes) -> Any:
    """A validator for a schema, or None when the schema is broken itself."""
    if b'"patternProperties"' in schema:
        return None
    parsed = orjson.loads(schema)
    try:
        Draft202012Validator.check_schema(parsed)
    except (SchemaError, re.error, RecursionError):
        return None
    return _Validator(parsed, registry=Registry())
