"""What identifies people: found by its form and its check, and not where the check fails."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajectories.privacy.personal import FINDERS, has_luhn, has_mod97, may_hold_personal

FOUND = [
    ("emails", "write to ann.lee+x@mail.example.co.uk, please", "ann.lee+x@mail.example.co.uk"),
    ("emails", '{"from":"bob@example.org"}', "bob@example.org"),
    ("cards", "card 4111 1111 1111 1111 until 12/29", "4111 1111 1111 1111"),
    ("cards", "5555-5555-5555-4444", "5555-5555-5555-4444"),
    ("cards", "amex 378282246310005.", "378282246310005"),
    ("cards", "2026 4111 1111 1111 1111 123", "4111 1111 1111 1111"),
    ("ibans", "to DE89 3704 0044 0532 0130 00 by Monday", "DE89 3704 0044 0532 0130 00"),
    ("ibans", "IBAN:GB82WEST12345698765432", "GB82WEST12345698765432"),
    ("ibans", "FR1420041010050500013M02606 EUR 20", "FR1420041010050500013M02606"),
    ("ssns", "my number is 219-09-9999", "219-09-9999"),
    ("phones", "call +49 30 901820 or mail", "+49 30 901820"),
    ("phones", "call +1 (415) 555-2671", "+1 (415) 555-2671"),
    ("phones", "(415) 555-2671", "(415) 555-2671"),
    ("phones", "415-555-2671!", "415-555-2671"),
    ("phones", "in Berlin 030 901 820 12", "030 901 820 12"),
    ("phones", "+49 30 9018207 4111 1111 1111 1111", "+49 30 9018207 4111"),
    ("phones", "0044 20 7946 0958", "0044 20 7946 0958"),
    ("ips", "from 8.8.8.8:53", "8.8.8.8"),
    ("ips", "from 2606:4700:4700::1111 on", "2606:4700:4700::1111"),
]
NOT_FOUND = [
    ("emails", "user@localhost, @handle, a@b, git@, me @ example.org"),
    ("cards", "4111 1111 1111 1112 and 1234567812345670 and 0.4111111111111111"),
    ("cards", "order 9111111111111111, id a4111111111111111"),
    ("ibans", "DE89 3704 0044 0532 0130 01 and XX89 3704 0044 0532 0130 00"),
    ("ssns", "000-12-3456 666-12-3456 900-12-3456 123-00-4567 2021-09-9999"),
    ("phones", "2026-11-28 15:24:54, 1.2345678901, 12345678, v1.2.3-4567, 10/12/2026"),
    ("phones", "3f2504e0-4f89-11d3-9a0c-0305e82c3301, 100 200 300, 192.168.0.1"),
    ("ips", "127.0.0.1 10.0.0.5 192.168.1.1 999.1.1.1 ::1 12:34:56 fe80::1"),
]


@pytest.mark.parametrize(("name", "text", "wanted"), FOUND)
def test_what_identifies_somebody_is_found(name: str, text: str, wanted: str) -> None:
    assert [text[span.start : span.end] for span in FINDERS[name](text)] == [wanted]
    assert may_hold_personal(text)


@pytest.mark.parametrize(("name", "text"), NOT_FOUND)
def test_what_only_looks_like_it_is_not(name: str, text: str) -> None:
    assert list(FINDERS[name](text)) == []


@given(st.text(st.sampled_from("0123456789 -+().@:/ABDEabcdefg"), max_size=60))
def test_what_may_hold_nothing_holds_nothing(text: str) -> None:
    if not may_hold_personal(text):
        assert not [span for find in FINDERS.values() for span in find(text)]


@given(st.text(max_size=80))
def test_spans_are_inside_their_text(text: str) -> None:
    for find in FINDERS.values():
        for span in find(text):
            assert 0 <= span.start < span.end <= len(text)


@given(st.integers(0, 10**15))
def test_one_wrong_digit_is_noticed(number: int) -> None:
    body = str(number)
    valid = next(body + str(last) for last in range(10) if has_luhn(body + str(last)))
    wrong = valid[:-1] + str((int(valid[-1]) + 1) % 10)
    assert not has_luhn(wrong)
    assert has_mod97("GB82WEST12345698765432")
    assert not has_mod97("GB83WEST12345698765432")
