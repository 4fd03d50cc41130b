"""Short forms of what the store writes often: ids and digests as the bytes they stand for.

An id such as `tr_019a...` is 31 characters of hexadecimal, and a digest 32; as
bytes they are half of that. Whatever is of no known form is kept as it is, so
that `unpack(pack(words)) == words` for every text without a space.
"""

from trajectories.errors import RecordError

_ID_DIGITS = 28
_FORMS = {"traj_": 1, "tr_": 2}
_PREFIXES = {code: prefix for prefix, code in _FORMS.items()}
_DIGEST, _NUMBER, _TEXT = 3, 4, 5
_DIGEST_DIGITS = 32
_HEX = frozenset("0123456789abcdef")


def pack(words: str) -> bytes:
    """Words separated by single spaces, each in its shortest form."""
    return b"".join(_pack(word) for word in words.split(" "))


def unpack(packed: bytes) -> str:
    """The inverse of `pack`; raises RecordError on anything else."""
    words = []
    at = 0
    try:
        while at < len(packed):
            word, at = _unpack(packed, at)
            words.append(word)
    except (IndexError, UnicodeDecodeError) as error:
        raise RecordError(f"not packed words: {packed!r}") from error
    return " ".join(words)


def _pack(word: str) -> bytes:
    prefix, _, digits = word.rpartition("_")
    code = _FORMS.get(prefix + "_")
    if code is not None and len(digits) == _ID_DIGITS and _HEX.issuperset(digits):
        return bytes((code,)) + bytes.fromhex(digits)
    if len(word) == _DIGEST_DIGITS and _HEX.issuperset(word):
        return bytes((_DIGEST,)) + bytes.fromhex(word)
    if word.isascii() and word.isdigit() and len(word) <= 9 and str(int(word)) == word:
        number = int(word)
        size = (number.bit_length() + 7) // 8
        return bytes((_NUMBER, size)) + number.to_bytes(size, "little")
    text = word.encode("utf-8", "surrogatepass")
    if len(text) > 0xFFFF:
        raise RecordError(f"too long for an id: {word[:40]!r}...")
    return bytes((_TEXT,)) + len(text).to_bytes(2, "little") + text


def _unpack(packed: bytes, at: int) -> tuple[str, int]:
    code = packed[at]
    at += 1
    if code in _PREFIXES:
        end = at + _ID_DIGITS // 2
        word = _PREFIXES[code] + packed[at:end].hex()
    elif code == _DIGEST:
        end = at + _DIGEST_DIGITS // 2
        word = packed[at:end].hex()
    elif code == _NUMBER:
        end = at + 1 + packed[at]
        word = str(int.from_bytes(packed[at + 1 : end], "little"))
    elif code == _TEXT:
        end = at + 2 + int.from_bytes(packed[at : at + 2], "little")
        word = packed[at + 2 : end].decode("utf-8", "surrogatepass")
    else:
        raise IndexError(code)
    if end > len(packed):
        raise IndexError(end)
    return word, end
