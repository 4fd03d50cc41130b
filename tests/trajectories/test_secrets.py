"""Secrets: found however they are written down, and nothing else is."""

import json
import re
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajectories.errors import RecordError
from trajectories.model import Choice, Transition
from trajectories.privacy.known import open_redactor
from trajectories.privacy.redacting import redacted
from trajectories.privacy.secrets import NO_REDACTION, Redactor
from trajectories.settings import Settings

REDACTOR = Redactor(
    [
        ("upstream_key", 'up"str-eam-key'),
        ("redis_password", "hunter2hunter2"),
        ("webhook_secret", "pä/ss\U0001f511-w&rd"),
    ]
)
PEM = (
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEAabc/+==\nqwertyuiopasdf\n"
    "-----END RSA PRIVATE KEY-----"
)
SECRETS = {
    "api_key": "sk-proj-abcdefghijklmnop0123456789",
    "anthropic_key": "sk-ant-api03-abcdefghijklmnop_-0123",
    "ratchet_key": "rk_" + "aB3-_" * 8,
    "stripe_key": "sk_live_" + "a1B2" * 6,
    "aws_key": "AKIAIOSFODNN7EXAMPLE",
    "aws_secret": "aws_secret_access_key = wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY12",
    "github_token": "ghp_" + "a1B2c3" * 6,
    "github_pat": "github_pat_" + "a1B2c3_" * 8,
    "gitlab_token": "glpat-abcdefghij0123456789",
    "slack_token": "xoxb-123456789012-abcdefABCDEF",
    "google_key": "AIza" + "aB3-_" * 7,
    "google_token": "ya29.a0AfH6SMBabcdefghijklmnop",
    "huggingface_token": "hf_" + "aB3d" * 9,
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    "bearer_token": "Bearer ab/cdefgh+ijk.QRSTUV~/123==",
    "private_key": PEM,
    "upstream_key": 'up"str-eam-key',
    "redis_password": "hunter2hunter2",
    "webhook_secret": "pä/ss\U0001f511-w&rd",
    "url_password": "redis://:p\x01é&s!wörd@",
}
CLEAN = [
    "a task-management-system-of-the-future, a risk-averse-and-cautious-approach",
    "Bearer of good news; the bearer shall be admitted",
    "see http://example.org:8080/a@b and mailto:someone@example.org",
    "GET https://example.org/?q=a:b@c",
    "the AKIA prefix, ghp_ alone, eyJ alone, sk- alone, rk_ alone",
    "disk-0123456789abcdef-partition",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "2001:db8::1 and 12:34:56 and C:\\\\Users\\\\me@work",
]


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("around", ["{}", "before\n{} after", "('{}')", '{{"k": "{}"}}', "é{}é"])
def test_a_secret_is_replaced_by_its_kind(kind: str, around: str) -> None:
    text = around.format(SECRETS[kind])
    assert REDACTOR.finds(orjson.dumps(text))
    cleaned = REDACTOR.text(text)
    assert f"[redacted:{kind}]" in cleaned
    assert SECRETS[kind] not in cleaned
    assert cleaned.startswith(around.partition("{")[0][:3])


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_it_is_found_however_deep_its_json_is_escaped(
    kind: str, ascii_only: bool, levels: int
) -> None:
    text = f"a\n{SECRETS[kind]}\tö"
    for _ in range(levels):
        text = json.dumps({"v": text}, ensure_ascii=ascii_only)
    assert REDACTOR.finds(text.encode())
    cleaned = json.dumps(REDACTOR.clean(json.loads(text)))
    assert f"[redacted:{kind}]" in cleaned


def test_a_password_in_an_address_goes_and_the_address_stays() -> None:
    text = "redis://user:p4ss,word!@host:6379/0 and postgres:\\/\\/u:hunter22@db"
    cleaned = REDACTOR.text(text)
    assert cleaned == (
        "redis://user:[redacted:url_password]@host:6379/0"
        " and postgres:\\/\\/u:[redacted:url_password]@db"
    )


@pytest.mark.parametrize("text", CLEAN)
def test_ordinary_text_stays(text: str) -> None:
    assert REDACTOR.text(text) == text


def test_letters_escaped_without_need_hide_nothing() -> None:
    raw = b'{"content":"\\u0073k-proj-abcdefgh\\u0069jklmnop0123456789"}'
    assert REDACTOR.finds(raw)
    assert REDACTOR.clean(orjson.loads(raw)) == {"content": "[redacted:api_key]"}


def test_what_is_clean_is_the_same_object() -> None:
    value = {"a": ["b", {"c": 1.5, "d": None}]}
    assert REDACTOR.clean(value) is value


def test_a_short_value_is_not_looked_for() -> None:
    assert Redactor([("redis_password", "cat")]).text("a cat") == "a cat"


def test_off_is_off() -> None:
    assert not NO_REDACTION.finds(SECRETS["jwt"].encode())
    assert NO_REDACTION.text(SECRETS["jwt"]) == SECRETS["jwt"]


def test_the_settings_own_keys_are_known() -> None:
    settings = Settings(
        redis={"url": "redis://:p%40ssw0rd-of-it@h/0"},
        gateway={"api_key": "gateway-key-1"},
        upstream={"api_key": "engine-key-1"},
        upstreams={"big": {"url": "http://big", "api_key": "provider-key-1"}},
        webhooks={"hook": {"url": "http://hook", "secret": "the-hooks-secret"}},
    )
    text = (
        "gateway-key-1 engine-key-1 provider-key-1 p@ssw0rd-of-it p%40ssw0rd-of-it the-hooks-secret"
    )
    assert open_redactor(settings).text(text) == (
        "[redacted:gateway_key] [redacted:upstream_key] [redacted:upstream_key]"
        " [redacted:redis_password] [redacted:redis_password] [redacted:webhook_secret]"
    )


def respelt(encoded: str, draw: Callable[[int], int]) -> str:
    """The same JSON string in another spelling: each character as it was, or by its code."""
    spelt = ""
    for written in re.findall(r"\\u....|\\.|[^\\]", encoded[1:-1]):
        way = draw(4)
        units = json.loads(f'"{written}"').encode("utf-16-be", "surrogatepass")
        code = "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
        if way < 2:
            spelt += written
        elif way == 2 or code == written:
            spelt += "\\/" if written == "/" else code
        else:
            spelt += code[:2] + code[2:].upper().replace("U", "u")
    return f'"{spelt}"'


@given(st.sampled_from(list(SECRETS)), st.sampled_from(["", "é", "\n", "(", "/"]), st.data())
def test_no_spelling_of_json_hides_it(kind: str, before: str, data: st.DataObject) -> None:
    text = before + SECRETS[kind]
    numbers = st.integers(0, 3)
    spellings = [orjson.dumps(text).decode(), json.dumps(text)]
    spellings += [spelling.replace("/", "\\/") for spelling in spellings]
    spellings += [respelt(spelling, lambda _: data.draw(numbers)) for spelling in spellings[:2]]
    for spelling in spellings:
        assert json.loads(spelling) == text
        assert REDACTOR.finds(spelling.encode())
        cleaned = REDACTOR.clean(orjson.loads(spelling))
        assert SECRETS[kind] not in cleaned
        assert f"[redacted:{kind}]" in cleaned


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_nor_do_arguments_of_a_tool_that_escape_the_slash(kind: str, ascii_only: bool) -> None:
    arguments = json.dumps({"v": SECRETS[kind]}, ensure_ascii=ascii_only).replace("/", "\\/")
    outer = json.dumps({"arguments": arguments}).replace("/", "\\/")
    assert REDACTOR.finds(outer.encode())
    cleaned = REDACTOR.clean(json.loads(outer))["arguments"]
    assert f"[redacted:{kind}]" in cleaned
    if kind != "url_password":  # its frame stays
        assert set(json.loads(cleaned)["v"].split("]")[1]) <= set("=")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    JSON,
    st.sampled_from([kind for kind in SECRETS if kind != "upstream_key"]),
    st.text(st.characters(exclude_categories=["Cs", "L", "N", "Pc", "Pd"]), max_size=5),
)
def test_whatever_is_around_it_it_is_found_first_and_gone_then(
    value: Any, kind: str, before: str
) -> None:
    holding = {"value": value, "text": before + SECRETS[kind]}
    encoded = orjson.dumps(holding)
    assert REDACTOR.finds(encoded)
    cleaned = REDACTOR.clean(orjson.loads(encoded))
    assert SECRETS[kind] not in cleaned["text"]


@given(JSON)
def test_what_is_not_found_would_not_be_changed(value: Any) -> None:
    encoded = orjson.dumps(value)
    if not REDACTOR.finds(encoded):
        assert REDACTOR.clean(orjson.loads(encoded)) == orjson.loads(encoded)


@given(JSON)
def test_cleaning_twice_is_cleaning_once(value: Any) -> None:
    once = REDACTOR.clean({"v": value, "s": list(SECRETS.values())})
    assert REDACTOR.clean(once) == once


def test_an_upstream_that_quotes_our_key_is_not_passed_on() -> None:
    hiding = Redactor([("upstream_key", 'up"stream-key-1')], is_on=False)
    assert hiding.without_known(b'{"error":"bad key up\\"stream-key-1"}') == (
        b'{"error":"bad key [redacted:upstream_key]"}'
    )


def test_an_imported_call_loses_the_ids_that_spell_its_secret() -> None:
    call = Transition(
        id="t",
        trajectory_id="traj_1",
        gateway="import",
        started_at=1,
        latency_seconds=0,
        request={"messages": [{"role": "user", "content": SECRETS["jwt"]}]},
        model="m",
        prompt_token_ids=(1, 2),
        choices=(Choice(message={"content": "hi"}, token_ids=(3,), logprobs=(-1.0,)),),
    )
    found = redacted(call, REDACTOR)
    assert (found.prompt_token_ids, found.choices) == ((), call.choices)
    assert SECRETS["jwt"] not in found.model_dump_json()
    clean = call.model_copy(update={"request": {}})
    assert redacted(clean, REDACTOR) is clean


def test_an_error_does_not_quote_what_it_could_not_read() -> None:
    with pytest.raises(RecordError) as raised:
        Transition.from_json(orjson.dumps({"id": {"x": SECRETS["jwt"]}}))
    assert "id" in str(raised.value)
    assert "eyJ" not in str(raised.value)
