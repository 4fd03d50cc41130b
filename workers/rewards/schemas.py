"""Whether a value holds a JSON schema that a client wrote.

Pure. The schema comes from a stranger: a remote `$ref` is never fetched (the
library would, by default), and a schema that is itself broken says nothing
about the model, so it finds no fault.
"""

import re
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable


def first_fault(schema: dict[str, Any], value: Any) -> str | None:
    """What is wrong with `value` first, or None."""
    try:
        Draft202012Validator.check_schema(schema)
        validator = Draft202012Validator(schema, registry=Registry())
        fault = next(iter(validator.iter_errors(value)), None)
    except (SchemaError, Unresolvable, re.error, RecursionError):
        return None
    if fault is None:
        return None
    # The message quotes the value; the path and the rule are enough, and hold no traffic.
    return f"{fault.json_path} breaks '{fault.validator}'"
