"""Real vLLM behind a gateway: in every dialect the client sees, and the trainer gets, the same.

The measure is a chat request to the engine itself. A forced call is constrained
by a grammar, so it comes whatever the model has learned.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import fakeredis
import httpx2
import openai
import orjson
import pytest

from gateway.app import create_app
from gateway.dialects.chat import Additions, strip_answer, upstream_body
from gateway.dialects.chat_reply import ChatReply
from gateway.dialects.cutting import cut_answer
from gateway.dialects.fold import Folded, StreamFold, fold, fold_answer
from gateway.dialects.sse import EventSplitter, StreamCleaner, is_done, parse_chunk
from gateway.dialects.tokens import TokenEvents
from gateway.services import Services
from gateway.spool.payload import shipped
from gateway.spool.segments import list_segments, read_frames
from ratchet.demo.questions import CALCULATOR
from tests.gateway.conftest import serving, settings_for, shipping_client, wait_for
from tests.real.conftest import BASE, RealEngine
from trajectories.model import Outcome, Transition, unpack_record

# The first test of a session also makes the model and starts vLLM.
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

Body = dict[str, Any]
QUESTION = [{"role": "user", "content": "What is 31 plus 7?"}]
MAX_TOKENS = 100
FUNCTION = CALCULATOR["function"]
NAME = FUNCTION["name"]
# What is wished for, in chat; `auto` may or may not call.
TOOLS: dict[str, Body] = {
    "none": {},
    "auto": {"tools": [CALCULATOR], "tool_choice": "auto"},
    "required": {"tools": [CALCULATOR], "tool_choice": "required"},
    "named": {
        "tools": [CALCULATOR],
        "tool_choice": {"type": "function", "function": {"name": NAME}},
    },
}
# Characters of several tokens, broken ones among them, come of a high temperature.
WILD: Body = {"temperature": 1.7, "seed": 3}


@dataclass(frozen=True)
class Seen:
    """An answer as its client saw it; `ending` in the client's dialect."""

    text: str
    calls: list[tuple[str, Any]]
    ending: str | None
    usage: tuple[int, int]


@dataclass(frozen=True)
class Measure:
    """A chat request's answer by the engine itself, with all there is to record."""

    prompt: list[int]
    token_ids: list[int]
    logprobs: list[float]


@dataclass(frozen=True)
class Gateway:
    """A gateway before the engine."""

    url: str
    services: Services

    def last(self) -> Transition:
        """The transition that was recorded last."""
        *_, segment = list_segments(self.services.spool.directory)
        *_, frame = read_frames(segment)
        record = unpack_record(shipped(frame.payload))
        assert isinstance(record, Transition)
        return record


@pytest.fixture(scope="module")
def gateway(engine: RealEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    settings = settings_for(
        tmp_path_factory.mktemp("gateway"),
        engine.url,
        upstream={"base_model": BASE, "first_byte_seconds": 60, "idle_seconds": 60},
    )
    redis = fakeredis.FakeRedis()
    app = create_app(settings, redis=redis, shipping=shipping_client(redis))
    with serving(app) as url:
        yield Gateway(url, app.state.services)


# -- one answer, asked for in each dialect ----------------------------------------------


def ask_chat(url: str, model: str, tools: str, *, is_streamed: bool) -> Seen:
    asked: Body = {"max_tokens": MAX_TOKENS, "temperature": 0, "seed": 7, **TOOLS[tools]}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        if is_streamed:
            asked["stream_options"] = {"include_usage": True}
            with client.chat.completions.stream(model=model, messages=QUESTION, **asked) as stream:
                stream.until_done()
                answer = stream.get_final_completion()
        else:
            answer = client.chat.completions.create(model=model, messages=QUESTION, **asked)
    (choice,) = answer.choices
    calls = [call.function for call in choice.message.tool_calls or []]
    return Seen(
        choice.message.content or "",
        [(call.name, as_json(call.arguments)) for call in calls],
        choice.finish_reason,
        (answer.usage.prompt_tokens, answer.usage.completion_tokens),
    )


def ask_completions(url: str, prompt: list[int], *, is_streamed: bool) -> Seen:
    """The chat's prompt as token ids: the same answer, then, as chat gives."""
    asked: Body = {"max_tokens": MAX_TOKENS, "temperature": 0, "seed": 7}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        if not is_streamed:
            chunks = [client.completions.create(model="policy", prompt=prompt, **asked)]
        else:
            asked["stream_options"] = {"include_usage": True}
            chunks = list(
                client.completions.create(model="policy", prompt=prompt, stream=True, **asked)
            )
    choices = [choice for chunk in chunks for choice in chunk.choices]
    usage = chunks[-1].usage
    return Seen(
        "".join(choice.text for choice in choices),
        [],
        choices[-1].finish_reason,
        (usage.prompt_tokens, usage.completion_tokens),
    )


def ask_responses(url: str, tools: str, *, is_streamed: bool) -> Seen:
    asked: Body = {"max_output_tokens": MAX_TOKENS, "temperature": 0, "extra_body": {"seed": 7}}
    if tools != "none":
        choice = {"type": "function", "name": NAME} if tools == "named" else tools
        asked |= {"tools": [{"type": "function", **FUNCTION}], "tool_choice": choice}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        if is_streamed:
            with client.responses.stream(model="policy", input=QUESTION, **asked) as stream:
                answer = stream.until_done().get_final_response()
        else:
            answer = client.responses.create(model="policy", input=QUESTION, **asked)
    calls = [item for item in answer.output if item.type == "function_call"]
    return Seen(
        answer.output_text,
        [(call.name, as_json(call.arguments)) for call in calls],
        answer.status,
        (answer.usage.input_tokens, answer.usage.output_tokens),
    )


def ask_messages(url: str, tools: str, *, is_streamed: bool) -> Seen:
    asked: Body = {"max_tokens": MAX_TOKENS, "extra_body": {"temperature": 0, "seed": 7}}
    asked |= messages_tools(tools)
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        if is_streamed:
            with client.messages.stream(model="policy", messages=QUESTION, **asked) as stream:
                answer = stream.get_final_message()
        else:
            answer = client.messages.create(model="policy", messages=QUESTION, **asked)
    return Seen(
        "".join(block.text for block in answer.content if block.type == "text"),
        [(block.name, block.input) for block in answer.content if block.type == "tool_use"],
        answer.stop_reason,
        (answer.usage.input_tokens, answer.usage.output_tokens),
    )


def messages_tools(tools: str) -> Body:
    """The wish as Anthropic's clients say it."""
    if tools == "none":
        return {}
    kinds = {"auto": {"type": "auto"}, "required": {"type": "any"}}
    tool = {key: FUNCTION[key] for key in ("name", "description")}
    return {
        "tools": [{**tool, "input_schema": FUNCTION["parameters"]}],
        "tool_choice": kinds.get(tools, {"type": "tool", "name": NAME}),
    }


def as_json(arguments: str) -> Any:
    return json.loads(arguments)


ENDINGS: dict[str, Callable[[Seen], str | None]] = {
    "chat": lambda seen: seen.ending,
    "completions": lambda seen: seen.ending,
    "responses": lambda seen: "incomplete" if seen.ending == "length" else "completed",
    "messages": lambda seen: (
        "max_tokens" if seen.ending == "length" else "tool_use" if seen.calls else "end_turn"
    ),
}
CASES = [
    (dialect, tools)
    for dialect in ENDINGS
    for tools in TOOLS
    if dialect != "completions" or tools == "none"
]


@pytest.fixture(scope="module")
def measure(engine: RealEngine) -> Callable[[str], Measure]:
    """Asks the engine itself in chat, once for each wish."""
    known: dict[str, Measure] = {}

    def ask(tools: str) -> Measure:
        if tools not in known:
            asked = {**TOOLS[tools], "return_token_ids": True, "logprobs": True}
            answer = post(engine.url, chat_body(**asked)).json()
            (choice,) = answer["choices"]
            known[tools] = Measure(
                answer["prompt_token_ids"],
                choice["token_ids"],
                [entry["logprob"] for entry in choice["logprobs"]["content"]],
            )
        return known[tools]

    return ask


def chat_body(**more: Any) -> Body:
    asked = {"max_tokens": MAX_TOKENS, "temperature": 0, "seed": 7}
    return {"model": BASE, "messages": QUESTION, **asked, **more}


def post(url: str, body: Body, path: str = "/v1/chat/completions") -> httpx2.Response:
    answer = httpx2.post(url + path, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("dialect", "tools"), CASES, ids=map("-".join, CASES))
def test_every_dialect_gives_and_records_what_a_chat_request_to_the_engine_gives(
    engine: RealEngine,
    gateway: Gateway,
    measure: Callable[[str], Measure],
    dialect: str,
    tools: str,
    is_streamed: bool,
) -> None:
    expected = ask_chat(engine.url, BASE, tools, is_streamed=is_streamed)
    direct = measure(tools)
    if dialect == "chat":
        seen = ask_chat(gateway.url, "policy", tools, is_streamed=is_streamed)
    elif dialect == "completions":
        seen = ask_completions(gateway.url, direct.prompt, is_streamed=is_streamed)
    elif dialect == "responses":
        seen = ask_responses(gateway.url, tools, is_streamed=is_streamed)
    else:
        seen = ask_messages(gateway.url, tools, is_streamed=is_streamed)
    transition = gateway.last()

    ending = ENDINGS[dialect](expected)
    assert seen == Seen(expected.text, expected.calls, ending, expected.usage)
    assert bool(seen.calls) or tools in ("none", "auto")

    (choice,) = transition.choices
    assert (transition.dialect, transition.outcome) == (dialect, Outcome.COMPLETE)
    assert transition.is_streamed == is_streamed
    assert choice.finish_reason == expected.ending
    assert (choice.message["content"] or "") == expected.text
    calls = [call["function"] for call in choice.message.get("tool_calls") or []]
    assert [(call["name"], as_json(call["arguments"])) for call in calls] == expected.calls
    assert transition.usage is not None
    counted = (transition.usage["prompt_tokens"], transition.usage["completion_tokens"])
    assert counted == (len(transition.prompt_token_ids), len(choice.token_ids)) == expected.usage
    assert choice.is_aligned
    assert [*transition.prompt_token_ids] == direct.prompt
    assert [*choice.token_ids] == direct.token_ids
    assert choice.logprobs == pytest.approx(direct.logprobs, abs=1e-3)


# -- the client's bytes -----------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, WILD, TOOLS["auto"], TOOLS["required"]], ids=repr)
@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_a_chat_client_gets_the_bytes_that_the_engine_would_have_sent_it(
    engine: RealEngine, gateway: Gateway, more: Body, is_streamed: bool
) -> None:
    check_bytes(engine, gateway, chat_body(**more, stream=is_streamed))


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_a_completions_client_gets_the_bytes_that_the_engine_would_have_sent_it(
    engine: RealEngine, gateway: Gateway, is_streamed: bool
) -> None:
    body = {"model": BASE, "prompt": "What", "max_tokens": 20, **WILD, "stream": is_streamed}
    check_bytes(engine, gateway, body, "/v1/completions")


def check_bytes(
    engine: RealEngine, gateway: Gateway, body: Body, path: str = "/v1/chat/completions"
) -> None:
    """The same bytes from both; asked again, since a busy engine puts tokens together in events."""
    for _ in range(5):
        given = without_chance(post(gateway.url, {**body, "model": "policy"}, path).text)
        sent = without_chance(post(engine.url, body, path).text)
        if given == sent:
            return
    assert given == sent


def without_chance(text: str) -> str:
    """An answer without what differs between any two, and without the model's name."""
    text = re.sub(r'"id":"(chatcmpl|cmpl|chatcmpl-tool)-\w+"', r'"id":"\1"', text)
    text = re.sub(r'"created":\d+', '"created":0', text)
    return text.replace('"model":"policy"', f'"model":"{BASE}"')


@pytest.mark.parametrize("more", [{}, WILD, *list(TOOLS.values())[1:]], ids=repr)
def test_a_whole_answer_is_cut_without_parsing_and_folds_as_if_parsed(
    engine: RealEngine, more: Body
) -> None:
    body, additions = upstream_body(chat_body(**more), BASE)
    raw = post(engine.url, body).content
    cut = cut_answer(raw)
    assert cut is not None
    answer = orjson.loads(raw)
    assert plain(cut[1]) == plain(fold_answer(answer))
    strip_answer(answer, additions, None)
    assert orjson.loads(cut[0]) == answer


@pytest.mark.parametrize("more", [{}, WILD, *list(TOOLS.values())[1:]], ids=repr)
def test_token_events_are_cleaned_without_parsing_and_fold_as_if_parsed(
    engine: RealEngine, more: Body
) -> None:
    body, additions = upstream_body(chat_body(**more, stream=True), BASE)
    raw = post(engine.url, body).content
    events = EventSplitter().feed(raw)
    tokens = TokenEvents(additions, None, StreamFold())
    taken = [event for event in events if tokens.take(event.removesuffix(b"\n\n")) is not None]
    assert taken == [event for event in events if is_token(event)]
    assert taken or "tools" in more

    reply = ChatReply(additions, None, BASE)
    given = reply.feed(raw) + reply.finish()
    assert read(given) == read(parsed(events, additions))
    assert plain(reply.folded()) == plain(fold(raw))


def is_token(event: bytes) -> bool:
    """Whether an event is one token of a text, and neither its first nor its last chunk."""
    chunk = parse_chunk(event)
    if chunk is None or not chunk["choices"]:
        return False
    (choice,) = chunk["choices"]
    is_inside = choice["finish_reason"] is None and len(choice.get("token_ids") or []) == 1
    return is_inside and choice["delta"].keys() == {"content"}


def parsed(events: list[bytes], additions: Additions) -> bytes:
    """A stream cleaned event by event, each of them parsed."""
    cleaner = StreamCleaner(additions, None)
    *before, last = events
    assert is_done(last)
    cleaned = [cleaner.clean(event) for event in before]
    return b"".join([*cleaned, cleaner.flush(), last])


def read(stream: bytes) -> list[Any]:
    return [parse_chunk(event) or event for event in EventSplitter().feed(stream)]


def plain(folded: Folded) -> Any:
    """What is recorded of it, read back."""
    return orjson.loads(orjson.dumps(folded))


# -- around the answers -----------------------------------------------------------------


@pytest.mark.parametrize("tools", ["none", "auto"])
def test_tokens_are_counted_as_the_engine_then_counts_them(gateway: Gateway, tools: str) -> None:
    called = {"type": "tool_use", "id": "t1", "name": NAME, "input": {"a": 31, "b": 7}}
    answered = {"type": "tool_result", "tool_use_id": "t1", "content": "38"}
    turns = [
        {"role": "assistant", "content": [called]},
        {"role": "user", "content": [answered]},
    ]
    asked: Body = {"model": "policy", "messages": [*QUESTION, *turns], "system": "Be brief."}
    asked |= messages_tools(tools)
    with anthropic.Anthropic(base_url=gateway.url, api_key="none", max_retries=0) as client:
        counted = client.messages.count_tokens(**asked)
        answer = client.messages.create(**asked, max_tokens=1)
    assert counted.input_tokens == answer.usage.input_tokens
    assert counted.input_tokens == len(gateway.last().prompt_token_ids)


LONG_TOKENS = 450
ATTEMPTS = 5
LONG: Body = {"model": "policy", "stream": True, "ignore_eos": True}
LONG_BODIES: dict[str, Body] = {
    "chat/completions": {"messages": QUESTION, "max_tokens": LONG_TOKENS},
    "completions": {"prompt": "What", "max_tokens": LONG_TOKENS},
    "responses": {"input": QUESTION, "max_output_tokens": LONG_TOKENS},
    "messages": {"messages": QUESTION, "max_tokens": LONG_TOKENS},
}


@pytest.fixture
def slow_engine(engine: RealEngine) -> Iterator[RealEngine]:
    """The engine, behind all others in the queue for the processor.

    vLLM's processes wait for each other in a loop. Where there are two cores for everything,
    Linux may let nobody else run until an answer is whole: no client, no gateway.
    """
    niceness = Path(f"/proc/{engine.pid}/autogroup")
    if not niceness.exists():
        yield engine
        return
    niceness.write_text("10")
    yield engine
    niceness.write_text("0")


@pytest.mark.parametrize("path", LONG_BODIES)
def test_the_engine_stops_when_the_client_hangs_up(
    slow_engine: RealEngine, gateway: Gateway, path: str
) -> None:
    engine = slow_engine
    for _ in range(ATTEMPTS):  # now and then it is done before the gateway hears of anything
        before = metric(engine.url, "generation_tokens_total")
        body = LONG | LONG_BODIES[path]
        with httpx2.stream("POST", f"{gateway.url}/v1/{path}", json=body, timeout=60) as answer:
            assert answer.status_code == 200
            next(answer.iter_raw())
        wait_for(lambda: is_idle(engine), seconds=20)
        generated = metric(engine.url, "generation_tokens_total") - before
        if generated < LONG_TOKENS:
            break
    assert generated < LONG_TOKENS

    transition = gateway.last()
    assert (transition.dialect, transition.is_streamed) == (path.partition("/")[0], True)
    assert transition.outcome is Outcome.DISCONNECTED
    for choice in transition.choices:
        assert len(choice.token_ids) == len(choice.logprobs) < LONG_TOKENS


def is_idle(engine: RealEngine) -> bool:
    """Whether nothing runs. The figures are of the engine's last step, so it is made to do one."""
    post(engine.url, chat_body(max_tokens=1))
    return metric(engine.url, "num_requests_running") == 0


def is_left(transition: Transition) -> bool:
    return transition.outcome is Outcome.DISCONNECTED


def metric(url: str, name: str) -> float:
    """One of vLLM's figures."""
    lines = httpx2.get(f"{url}/metrics", timeout=20).text.splitlines()
    (found,) = [line for line in lines if line.startswith(f"vllm:{name}{{")]
    return float(found.rpartition(" ")[2])
