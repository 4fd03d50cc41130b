"""What identifies people, found in text: patterns, each with the check that tells it from a number.

Pure. Checks: card numbers by network, length and Luhn's algorithm (ISO/IEC 7812-1),
IBANs by length of their country and mod 97 (ISO 13616), US social security
numbers by the ranges that were ever given out, addresses by `ipaddress`. Names
and streets have no pattern: for those there is Presidio (`presidio.py`).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import re2


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a text, and what it is: a word in capitals, such as EMAIL."""

    start: int
    end: int
    kind: str


Find = Callable[[str], Iterable[Span]]

_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}"
    r"(?![A-Za-z0-9-])"
)
# Looked for from every group on: what stands before or behind it may be a number, too.
_CARD = re.compile(r"(?<![\w.+])(?=([2-6](?:[ -]?[0-9]){12,18}))")
_AFTER_NUMBER = re.compile(r"[\w]|\.[0-9]")
_CARD_LENGTHS = range(19, 12, -1)
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}(?![A-Za-z0-9])")
_SSN = re.compile(
    r"(?<![\w.-])(?!000|666|9[0-9]{2})[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}(?![\w-]|\.[0-9])"
)
_PHONE = re.compile(
    r"(?<![\w.+/-])(?:"
    r"(?:\+|00)[1-9][0-9]{0,2}(?:[ ./-]?\(?[0-9]{1,5}\)?){2,6}"  # international
    r"|(?:\+?1[ .-])?\(?[2-9][0-9]{2}\)?[ .-][2-9][0-9]{2}[ .-][0-9]{4}"  # North America
    r"|0[1-9][0-9]{1,4}[ /-][0-9]{2,4}(?:[ -]?[0-9]{2,4}){1,3}"  # national, with a trunk 0
    r")(?![\w-]|\.[0-9])"
)
_IPV4 = re.compile(r"(?<![\w.-])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![\w-]|\.[0-9])")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")

_LEAST_PHONE_DIGITS, _MOST_PHONE_DIGITS = 8, 15  # E.164
_LAST_GAP = re.compile(r"(?:[ ./-]+\(?[0-9]*\)?|[0-9])$")  # what follows the last gap, or a digit
_CARD_NETWORKS = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})"  # Visa
    r"|(?:5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720)[0-9]*(?<=^[0-9]{16})"  # Mastercard
    r"|3[47][0-9]{13}"  # American Express
    r"|(?:6011|65|64[4-9])[0-9]*(?<=^[0-9]{16})"  # Discover
    r"|35(?:2[89]|[3-8][0-9])[0-9]{12}"  # JCB
    r"|3(?:0[0-5]|[68][0-9])[0-9]{11}"  # Diners Club
)
_IBAN_LENGTHS = {
    **dict.fromkeys(("NO",), 15),
    **dict.fromkeys(("BE",), 16),
    **dict.fromkeys(("DK", "FI", "FO", "GL", "NL", "SD"), 18),
    **dict.fromkeys(("MK", "SI"), 19),
    **dict.fromkeys(("AT", "BA", "EE", "KZ", "LT", "LU", "MN", "XK"), 20),
    **dict.fromkeys(("CH", "CR", "HR", "LI", "LV"), 21),
    **dict.fromkeys(("BG", "BH", "DE", "GB", "GE", "IE", "ME", "RS", "VA"), 22),
    **dict.fromkeys(("AE", "GI", "IL", "IQ", "OM", "SO", "TL"), 23),
    **dict.fromkeys(("AD", "CZ", "ES", "MD", "PK", "RO", "SA", "SE", "SK", "TN", "VG"), 24),
    **dict.fromkeys(("LY", "PT", "ST"), 25),
    **dict.fromkeys(("IS", "TR"), 26),
    **dict.fromkeys(("BI", "DJ", "FR", "GR", "IT", "MC", "MR", "SM"), 27),
    **dict.fromkeys(("AL", "AZ", "BY", "CY", "DO", "GT", "HU", "LB", "NI", "PL", "SV"), 28),
    **dict.fromkeys(("BR", "EG", "PS", "QA", "UA"), 29),
    **dict.fromkeys(("JO", "KW", "MU", "YE"), 30),
    **dict.fromkeys(("MT", "SC"), 31),
    **dict.fromkeys(("LC",), 32),
    **dict.fromkeys(("RU",), 33),
}


def _options() -> Any:
    options = re2.Options()
    options.max_mem = 64 * 1024 * 1024
    return options


# One pass of RE2 says that most texts hold nothing; what it finds is looked at by the patterns.
_MAY_HOLD = re2.compile(
    r"[A-Za-z0-9_%+-]@[A-Za-z0-9]"
    r"|[0-9](?:[ ./()-]{0,2}[0-9]){6}"
    r"|[A-Z]{2}[0-9]{2} ?[A-Z0-9]{4}"
    r"|[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]"
    r"|[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{0,4}:",
    _options(),
)


def may_hold_personal(text: str) -> bool:
    """Whether a pattern of this module could match `text`; False is sure."""
    return _MAY_HOLD.search(text) is not None


def find_emails(text: str) -> Iterator[Span]:
    return _spans(_EMAIL, text, "EMAIL")


def find_cards(text: str) -> Iterator[Span]:
    """Numbers of payment cards."""
    for match in _CARD.finditer(text):
        for length in _CARD_LENGTHS:
            end = _end_after(match[1].replace("-", " "), length)
            if (
                end
                and _is_card(match[1][:end])
                and not _AFTER_NUMBER.match(text, match.start() + end)
            ):
                yield Span(match.start(), match.start() + end, "CARD")
                break


def find_ibans(text: str) -> Iterator[Span]:
    """International bank account numbers; what follows one may look like more of it."""
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(match[0][:2], 0)
        end = _end_after(match[0], length)
        if end and has_mod97(match[0][:end].replace(" ", "")):
            yield Span(match.start(), match.start() + end, "IBAN")


def find_ssns(text: str) -> Iterator[Span]:
    """Social security numbers of the United States."""
    return _spans(_SSN, text, "SSN")


def find_phones(text: str) -> Iterator[Span]:
    """Telephone numbers written with a country's or an area's prefix."""
    for match in _PHONE.finditer(text):
        found = match[0]
        while _count_digits(found) > _MOST_PHONE_DIGITS:  # another number stands behind it
            found = _LAST_GAP.sub("", found)
        if _count_digits(found) >= _LEAST_PHONE_DIGITS:
            yield Span(match.start(), match.start() + len(found), "PHONE")


def find_ips(text: str) -> Iterator[Span]:
    """Addresses that are reachable from everywhere; private and reserved ones identify nobody."""
    yield from _spans(_IPV4, text, "IP", _is_global)
    yield from _spans(_IPV6, text, "IP", _is_global)


FINDERS: Mapping[str, Find] = {
    "emails": find_emails,
    "phones": find_phones,
    "cards": find_cards,
    "ibans": find_ibans,
    "ssns": find_ssns,
    "ips": find_ips,
}


def has_luhn(digits: str) -> bool:
    """Whether the last digit is Luhn's check digit of the others."""
    doubled = (int(digit) * 2 for digit in digits[-2::-2])
    return (sum(map(int, digits[::-2])) + sum(d - 9 if d > 9 else d for d in doubled)) % 10 == 0


def has_mod97(iban: str) -> bool:
    """Whether an IBAN without spaces has the remainder that it must have."""
    moved = iban[4:] + iban[:4]
    return int("".join(str(int(character, 36)) for character in moved)) % 97 == 1


def _spans(
    pattern: re.Pattern[str], text: str, kind: str, is_one: Callable[[str], bool] | None = None
) -> Iterator[Span]:
    for match in pattern.finditer(text):
        if is_one is None or is_one(match[0]):
            yield Span(match.start(), match.end(), kind)


def _is_card(found: str) -> bool:
    digits = found.replace(" ", "").replace("-", "")
    return _CARD_NETWORKS.fullmatch(digits) is not None and has_luhn(digits)


def _is_global(found: str) -> bool:
    try:
        return ip_address(found).is_global
    except ValueError:
        return False


def _count_digits(found: str) -> int:
    return sum(character.isdigit() for character in found)


def _end_after(found: str, count: int) -> int | None:
    """Where the first `count` characters end, spaces not counted; None: there are fewer."""
    seen = 0
    for position, character in enumerate(found):
        seen += character != " "
        if seen == count:
            return position + 1
    return None
