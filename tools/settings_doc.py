#!/usr/bin/env python3
"""Write docs/settings.md from the settings themselves: python tools/settings_doc.py

A test fails when the file on disk is not what this writes.
"""

from functools import reduce
from operator import or_
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from trajectories.settings import Settings

TARGET = Path(__file__).parent.parent / "docs" / "settings.md"
HEAD = """\
# Settings

Every process reads one file, `ratchet.toml` in its working directory (or the file that
`RATCHET_CONFIG` names), and then the environment, which wins. A key of a section is
`RATCHET_<SECTION>_<KEY>` there; lists and tables are written as JSON:

```bash
RATCHET_GATEWAY_PORT=9000 RATCHET_GATEWAY_ALIASES='["policy", "gpt-4o-mini"]' ratchet up
```

`REDIS_URL` is read as `RATCHET_REDIS_URL` where the latter is unset. An unknown key in the file
or a value out of range stops the process with a line that names it. This page is written by
`python tools/settings_doc.py`.
"""


def type_of(field: FieldInfo) -> str:
    """The type, as a reader writes it."""
    text = str(_plain(field.annotation))
    if isinstance(field.annotation, type):
        text = field.annotation.__name__
    text = text.replace("typing.", "").replace("pathlib._local.", "").replace("pathlib.", "")
    return text.replace("NoneType", "None").replace("|", "\\|")


def _plain(annotation: Any) -> Any:
    """A type without the limits that `Annotated` puts on its parts."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _plain(parts[0])
    if origin is None or origin is Literal:
        return annotation
    plain = tuple(_plain(part) for part in parts)
    if origin in (Union, UnionType):
        return reduce(or_, plain)
    return origin[plain]


def default_of(field: FieldInfo) -> str:
    """The default, as it stands in TOML."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return (
            "["
            + ", ".join(f'"{item}"' if isinstance(item, str) else str(item) for item in value)
            + "]"
        )
    return f'"{value}"' if not isinstance(value, int | float | dict) else f"{value}"


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a key of the top level opens, or that each of its named entries is."""
    if isinstance(field.default, BaseModel):
        return type(field.default)
    if get_origin(field.annotation) is dict:
        entry = get_args(field.annotation)[1]
        if isinstance(entry, type) and issubclass(entry, BaseModel):
            return entry
    return None


def fields_of(model: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    """The fields, those that are the section's own before those it shares with others."""
    return sorted(model.model_fields.items(), key=lambda item: item[0] not in model.__annotations__)


def rows(model: type[BaseModel]) -> list[str]:
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in fields_of(model):
        if section_of(field) is not None:
            continue
        meaning = (field.description or name.replace("_", " ")).replace("|", "\\|")
        lines.append(f"| `{name}` | {type_of(field)} | `{default_of(field)}` | {meaning} |")
    return lines


def chapter(title: str, section: type[BaseModel]) -> list[str]:
    about = (section.__doc__ or "").strip().splitlines()[0]
    return [f"## [{title}]\n", f"{about}\n", *rows(section), ""]


def page() -> str:
    """The whole page."""
    parts: list[Any] = [HEAD, "## Top level\n", *rows(Settings), ""]
    for name, field in Settings.model_fields.items():
        if section := section_of(field):
            title = name if isinstance(field.default, BaseModel) else f"{name}.NAME"
            parts += chapter(title, section)
            for key, inner in section.model_fields.items():
                if entry := section_of(inner):  # a table of sections within this one
                    parts += chapter(f"{title}.{key}.NAME", entry)
    return "\n".join(parts)


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
