"""Secrets: found in JSON by one pass of an automaton, and replaced by `[redacted:<kind>]`.

Two steps, because nearly everything is clean. `finds` looks at encoded JSON
with an automaton (`prefilter.py`), which takes at most 1.4 ns a byte whatever
the text is, and never backtracks: a body cannot be written to make it slow. It may find too much,
never too little. Only then is anything parsed: `clean` walks the strings and
replaces what the exact patterns match.

Patterns are those with a prefix or a frame that ordinary text does not have.
Beside them stand the exact values that a process knows: its own keys and
passwords, of eight characters or more.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import re2

from trajectories.privacy.prefilter import Prefilter

LEAST_KNOWN_CHARACTERS = 8  # a shorter value stands in ordinary text, too
_MOST_DEPTH = 250  # orjson writes no deeper JSON

# A secret begins a word, or follows an escape of JSON: in `\nsk-...` the n is no letter.
_START = r"(?:\b|\\[bfnrt]|\\u[0-9a-fA-F]{4})"
_TOKEN = r"[A-Za-z0-9_-]"
_SLASH = r"\\*/"  # PHP escapes it, and JSON in a string escapes that again
_ESCAPED = {"\b": b"b", "\f": b"f", "\n": b"n", "\r": b"r", "\t": b"t"}
_KINDS: Mapping[str, str] = {
    # Order matters: the first that matches names it.
    "anthropic_key": rf"sk-ant-{_TOKEN}{{16,}}",
    "api_key": rf"sk-{_TOKEN}{{16,}}",
    "stripe_key": r"[rs]k_(?:live|test)_[A-Za-z0-9]{16,}",
    "ratchet_key": rf"rk_{_TOKEN}{{32,}}",
    "aws_key": r"A(?:KIA|SIA|GPA|IDA|ROA|NPA)[0-9A-Z]{16}\b",
    "aws_secret": rf"aws_secret_access_key[\\\"' :=]{{1,8}}(?:[A-Za-z0-9+]|{_SLASH}){{40}}",
    "github_token": r"gh[pousr]_[A-Za-z0-9]{30,}",
    "github_pat": r"github_pat_[A-Za-z0-9_]{30,}",
    "gitlab_token": rf"glpat-{_TOKEN}{{20,}}",
    "slack_token": r"xox[abeoprs]-[0-9A-Za-z-]{10,}",
    "google_key": rf"AIza{_TOKEN}{{35}}",
    "google_token": rf"ya29\.{_TOKEN}{{20,}}",
    "huggingface_token": r"hf_[A-Za-z0-9]{30,}",
    "jwt": rf"eyJ{_TOKEN}{{8,}}\.eyJ{_TOKEN}{{8,}}(?:\.{_TOKEN}*)?",
    "bearer_token": rf"[Bb]earer +(?:[A-Za-z0-9._~+-]|{_SLASH}){{16,}}=*",
}
# These have a frame of their own, and need no beginning of a word.
_BASE64 = r"[A-Za-z0-9+/=\s\\:,-]"
_PRIVATE_KEY = (
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----"
    rf"(?:{_BASE64}{{16,}}?-----END [A-Z ]{{0,40}}PRIVATE KEY-----|{_BASE64}{{16,}})"
)
_URL_FRAME = r":\\{0,4}/\\{0,4}/[^\s/:@\"'<>\\]{0,100}:"
_URL_PASSWORD = r"[^\s/@\"'<>]{3,200}@"

# The same for encoded JSON, content with less.
_ENCODED_KINDS = (
    r"sk-[A-Za-z0-9_-]{16}",
    r"[rs]k_[A-Za-z0-9_-]{16}",
    r"A(?:KIA|SIA|GPA|IDA|ROA|NPA)[0-9A-Z]{16}",
    r"aws_secret_access_key",
    r"gh[pousr]_[A-Za-z0-9]{16}",
    r"github_pat_",
    r"glpat-",
    r"xox[abeoprs]-",
    r"AIza[A-Za-z0-9_-]{16}",
    r"ya29\.",
    r"hf_[A-Za-z0-9]{16}",
    r"eyJ[A-Za-z0-9_-]{8,}\.eyJ",
    rf"[Bb]earer +(?:[A-Za-z0-9._~+-]|{_SLASH}){{16}}",
)
_ENCODED_FRAMED = (
    r"PRIVATE KEY-----",
    # No bounds: a character may be written in twelve.
    rf":{_SLASH}{_SLASH}[^ /:@\"]*:[^ /@\"]{{3,}}@",
    # A letter, a digit or a mark of the patterns that somebody escaped without need.
    r"\\u00(?:2[0BDEFbdef]|3[0-9Aa]|4[0-9A-Fa-f]|5[0-9AaFf]|6[1-9A-Fa-f]|7[0-9AaEe])",
)

_ENCODED = [
    pattern.encode()
    for pattern in (*(f"{_START}(?:{kind})" for kind in _ENCODED_KINDS), *_ENCODED_FRAMED)
]


_EXACT = "|".join(
    (
        f"(?P<start>{_START})(?:" + "|".join(f"(?P<{k}>{p})" for k, p in _KINDS.items()) + ")",
        f"(?P<private_key>{_PRIVATE_KEY})",
        f"(?P<frame>{_URL_FRAME})(?P<url_password>{_URL_PASSWORD})",
    )
).encode()


class Redactor:
    """Finds and replaces secrets. Safe to share between threads."""

    def __init__(self, known: Iterable[tuple[str, str]] = (), *, is_on: bool = True) -> None:
        """`known` are exact values, each with its kind; short ones are left out."""
        self.is_on = is_on
        values = {value: kind for kind, value in known if len(value) >= LEAST_KNOWN_CHARACTERS}
        # The longest first: one may begin with another.
        longest = sorted(values, key=len, reverse=True)
        self._kinds = [values[value] for value in longest]
        spelt = [b"(%b)" % _in_any_json(value) for value in longest]
        self._known: Any = re2.compile(b"|".join(spelt), _options()) if spelt else None
        # Made for some 40 ms of CPU.
        self._prefilter = Prefilter([*spelt, *_ENCODED], _options()) if is_on else None
        self._patterns: Any = re2.compile(_EXACT, _options())

    def finds(self, encoded: bytes) -> bool:
        """Whether encoded JSON may hold a secret; False is sure."""
        return self._prefilter is not None and self._prefilter.finds(encoded)

    def text(self, text: str) -> str:
        """`text` without its secrets."""
        if not self.is_on:
            return text
        encoded = text.encode("utf-8", "surrogatepass")
        cleaned = self.without_known(encoded)
        if self._patterns.search(cleaned) is not None:
            cleaned = self._patterns.sub(_replaced, cleaned)
        return text if cleaned is encoded else cleaned.decode("utf-8", "surrogatepass")

    def without_known(self, answer: bytes) -> bytes:
        """Bytes for a client without the values that only we know, whether redaction is on or not.

        An upstream may quote the key it was asked with.
        """
        if self._known is None or self._known.search(answer) is None:
            return answer
        cleaned: bytes = self._known.sub(self._named, answer)
        return cleaned

    def clean(self, value: Any) -> Any:
        """Parsed JSON without its secrets: the very same object if it has none."""
        return self._walk(value, 0) if self.is_on else value

    def _walk(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            if len(value) < LEAST_KNOWN_CHARACTERS:  # nor has a pattern fewer
                return value
            cleaned = self.text(value)
            return value if cleaned == value else cleaned
        if depth > _MOST_DEPTH:
            return value
        if isinstance(value, dict):
            pairs = {self._walk(k, depth): self._walk(v, depth + 1) for k, v in value.items()}
            return value if _is_same(list(pairs.items()), list(value.items())) else pairs
        if isinstance(value, list | tuple):
            entries = [self._walk(entry, depth + 1) for entry in value]
            is_same = all(a is b for a, b in zip(entries, value, strict=True))
            return value if is_same else type(value)(entries)
        return value

    def _named(self, match: Any) -> bytes:
        found = next(place for place, text in enumerate(match.groups()) if text)
        return f"[redacted:{self._kinds[found]}]".encode()


def _is_same(some: list[tuple[Any, Any]], others: list[tuple[Any, Any]]) -> bool:
    return len(some) == len(others) and all(
        a is c and b is d for (a, b), (c, d) in zip(some, others, strict=True)
    )


def _in_any_json(text: str) -> bytes:
    """A pattern of all ways to write a text, itself or in JSON, in strings of JSON to any depth."""
    return b"".join(_in_any_spelling(character) for character in text)


def _in_any_spelling(character: str) -> bytes:
    units = character.encode("utf-16-be", "surrogatepass")
    digits = [units[at : at + 2].hex() for at in range(0, len(units), 2)]
    coded = "".join(rf"\\+u{re.sub('[a-f]', _in_either_case, unit)}" for unit in digits)
    itself = re2.escape(character.encode("utf-8", "surrogatepass"))
    if character in '/"':
        itself = rb"\\*" + itself
    elif character == "\\":
        itself = rb"\\+"
    elif character in _ESCAPED:
        itself += rb"|\\+" + _ESCAPED[character]
    return b"(?:%b|%b)" % (itself, coded.encode())


def _in_either_case(digit: re.Match[str]) -> str:
    return f"[{digit[0]}{digit[0].upper()}]"


def _options() -> Any:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1  # bytes, not characters
    options.max_mem = 64 * 1024 * 1024  # for the automaton's states; 8 MB would do
    options.log_errors = False
    return options


def _replaced(match: Any) -> bytes:
    found = {name: text for name, text in match.groupdict().items() if text}
    start = found.pop(b"start", b"") + found.pop(b"frame", b"")
    (kind,) = found
    return b"%b[redacted:%b]%b" % (start, kind, b"@" if kind == b"url_password" else b"")


NO_REDACTION = Redactor(is_on=False)
