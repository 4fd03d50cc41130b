"""What is played for AIR's cases, and what we expect of it: for each signal, yes and no.

`answers` are the model's, in order: text, tool calls, or a dictionary that is put over the first
choice. `fires` are (call, signal), counted from 0, with every signal on.
"""

import json
from dataclasses import dataclass, field
from typing import Any

Fires = tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """One conversation of one client."""

    name: str
    client: str
    what: str
    says: list[str]
    answers: list[Any]
    results: list[str] = field(default_factory=list)
    fires: Fires = ()
    limits: dict[str, Any] = field(default_factory=dict)  # more of the request, max_tokens say
    rules: dict[str, float] = field(default_factory=dict)  # slow_seconds, costly_tokens
    more: dict[str, Any] = field(default_factory=dict)  # switches of the script

    def content(self) -> dict[str, Any]:
        """What the script has to know."""
        return {"says": self.says, "results": self.results, "limits": self.limits, **self.more}


def call(name: str, arguments: Any) -> list[dict[str, Any]]:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return [{"name": name, "arguments": text}]


SEOUL = call("get_weather", {"city": "Seoul"})
BUSAN = call("get_weather", {"city": "Busan"})
ORDERS = call("search_orders", {"query": "shoes"})
ASKED = "What is the weather in Seoul?"
FINE = "It is sunny in Seoul, 21 degrees."

SCENES = (
    # -- tool calls ------------------------------------------------------------------------
    Scene(
        "tool_call_unparsable-1",
        "openai",
        "arguments cut in the middle; the loop reports it as an error",
        [ASKED],
        [call("get_weather", '{"city": "Seo'), SEOUL, FINE],
        ["Sunny, 21"],
        ((0, "tool_call_unparsable"),),
    ),
    Scene(
        "tool_call_unparsable-2",
        "langgraph",
        "a call that the engine's parser left in the text",
        [ASKED],
        ['<tool_call>\n{"name": "get_weather", "arguments": {"city": Seoul}}\n</tool_call>'],
        fires=((0, "tool_call_unparsable"),),
    ),
    Scene(
        "tool_call_unparsable-no-1",
        "openai",
        "talk about tool calls where no tool is offered",
        ["How does Hermes write tool calls?"],
        ["As JSON after <tool_call>, with name and arguments."],
        more={"no_tools": True},
    ),
    Scene(
        "tool_call_unparsable-no-2",
        "anthropic",
        "a good call, streamed by nobody, in the messages dialect",
        [ASKED],
        [SEOUL, FINE],
        ["Sunny, 21"],
    ),
    Scene(
        "unknown_tool-1",
        "langgraph",
        "a tool that is not there; langgraph says which are",
        [ASKED],
        [call("weather_now", {"city": "Seoul"}), SEOUL, FINE],
        ["Sunny, 21"],
        ((0, "unknown_tool"),),
    ),
    Scene(
        "unknown_tool-2",
        "pydantic_ai",
        "a tool that is not there; pydantic-ai asks for another",
        [ASKED],
        [call("lookup", {"city": "Seoul"}), SEOUL, FINE],
        ["Sunny, 21"],
        ((0, "unknown_tool"),),
    ),
    Scene(
        "unknown_tool-no-1",
        "agents",
        "two known tools, one after the other",
        [ASKED],
        [SEOUL, ORDERS, FINE],
        ["Sunny, 21", "Order 12: shoes"],
    ),
    Scene(
        "tool_arguments_invalid-1",
        "autogen",
        "a property that the schema does not name; autogen reports the failure",
        [ASKED],
        [call("get_weather", {"town": "Seoul"}), "I could not find it."],
        fires=((0, "tool_arguments_invalid"),),
    ),
    Scene(
        "tool_arguments_invalid-2",
        "pydantic_ai",
        "a number where a string is wanted; pydantic-ai sends back what is wrong",
        [ASKED],
        [call("get_weather", {"city": 7}), SEOUL, FINE],
        ["Sunny, 21"],
        ((0, "tool_arguments_invalid"),),
    ),
    Scene(
        "tool_arguments_invalid-no-1",
        "responses",
        "an optional argument left out, in the responses dialect",
        ["Where are my shoes?"],
        [ORDERS, "On their way."],
        ["Order 12: shoes, shipped"],
    ),
    Scene(
        "repeated_call-1",
        "openai",
        "the same search again, with the same outcome",
        ["Where are my shoes?"],
        [ORDERS, call("search_orders", '{ "query" : "shoes" }'), "Order 12."],
        ["Order 12: shoes", "Order 12: shoes"],
        ((1, "repeated_call"),),
    ),
    Scene(
        "repeated_call-2",
        "agents",
        "openai-agents, the same call twice",
        [ASKED],
        [SEOUL, SEOUL, FINE],
        ["Sunny, 21", "Sunny, 21"],
        ((1, "repeated_call"),),
    ),
    Scene(
        "repeated_call-no-1",
        "langgraph",
        "the same search again, and it found more: a job that went on",
        ["Tell me when my shoes are shipped."],
        [ORDERS, ORDERS, "They are shipped."],
        ["Order 12: packed", "Order 12: shipped"],
    ),
    Scene(
        "repeated_call-no-2",
        "anthropic",
        "calling again after an error is a retry",
        [ASKED],
        [SEOUL, SEOUL, FINE],
        ["!the weather service timed out", "Sunny, 21"],
        ((0, "tool_result_error"),),
    ),
    Scene(
        "call_loop-1",
        "smolagents",
        "smolagents, round and round until its steps are used up",
        [ASKED],
        [SEOUL, call("get_weather", {"city": "seoul "}), call("get_weather", {"city": "Seoul "})],
        ["I don't know", "I don't know", "I don't know", "I don't know"],
        ((2, "call_loop"), (3, "answer_sent_back")),
    ),
    Scene(
        "call_loop-2",
        "openai",
        "A, B, A, B with nothing new",
        [ASKED],
        [SEOUL, BUSAN, SEOUL, BUSAN, FINE],
        ["Sunny, 21", "Rain, 18", "Sunny, 21", "Rain, 18"],
        ((2, "repeated_call"), (3, "repeated_call"), (3, "call_loop")),
    ),
    Scene(
        "call_loop-no-3",
        "smolagents",
        "smolagents polling: what it observes changes",
        ["Wait until my shoes are shipped."],
        [ORDERS, ORDERS, ORDERS, call("final_answer", {"answer": "Shipped."})],
        ["Order 12: paid", "Order 12: packed", "Order 12: shipped"],
    ),
    Scene(
        "call_loop-no-1",
        "openai",
        "polling that sees something new each time",
        ["Wait until my shoes are shipped."],
        [ORDERS, ORDERS, ORDERS, "Shipped."],
        ["Order 12: paid", "Order 12: packed", "Order 12: shipped"],
    ),
    Scene(
        "call_loop-no-2",
        "autogen",
        "two cities, one after the other, and again after the user's question",
        ["Seoul or Busan?", "And tomorrow?"],
        [SEOUL, "Sunny.", BUSAN, "Rain."],
        ["Sunny, 21", "Rain, 18"],
    ),
    # -- tool results ----------------------------------------------------------------------
    Scene(
        "tool_result_error-1",
        "agents",
        "a tool that raises, as openai-agents puts it",
        [ASKED],
        [SEOUL, "I could not find out."],
        ["!no such city"],
        ((0, "tool_result_error"),),
    ),
    Scene(
        "tool_result_error-2",
        "anthropic",
        "is_error, in the messages dialect",
        [ASKED],
        [SEOUL, "I could not find out."],
        ["!no such city"],
        ((0, "tool_result_error"),),
    ),
    Scene(
        "tool_result_error-3",
        "responses",
        "JSON with an error, in the responses dialect",
        [ASKED],
        [SEOUL, "I could not find out."],
        ['{"error": {"code": 404, "message": "no such city"}}'],
        ((0, "tool_result_error"),),
    ),
    Scene(
        "tool_result_error-4",
        "pydantic_ai",
        "ModelRetry, as pydantic-ai puts it",
        [ASKED],
        [SEOUL, BUSAN, "It rains in Busan."],
        ["!no station in Seoul, try another city", "Rain, 18"],
        ((0, "tool_result_error"),),
    ),
    Scene(
        "tool_result_error-no-1",
        "langgraph",
        "a result that speaks of errors and is none",
        ["Search my orders for errors."],
        [call("search_orders", {"query": "error"}), "Two had errors."],
        ["2 orders with errors: 12 (wrong size), 14 (payment error: retried, fine)"],
    ),
    Scene(
        "tool_result_empty-1",
        "openai",
        "a search without a hit",
        ["Where are my shoes?"],
        [ORDERS, "There is no such order."],
        ['{"orders": [], "count": 0}'],
        ((0, "tool_result_empty"),),
    ),
    Scene(
        "tool_result_empty-2",
        "autogen",
        "nothing at all",
        [ASKED],
        [SEOUL, "I don't know."],
        [""],
        ((0, "tool_result_empty"),),
    ),
    Scene(
        "tool_result_empty-no-1",
        "openai",
        "a tool that acts has nothing to say",
        ["Delete a.txt"],
        [call("delete_file", {"path": "a.txt"}), "Done."],
        [""],
    ),
    # -- structure -------------------------------------------------------------------------
    Scene(
        "schema_broken-1",
        "langchain",
        "a schema asked for, and prose",
        [ASKED],
        [FINE],
        fires=((0, "schema_broken"),),
    ),
    Scene(
        "schema_broken-2",
        "langgraph",
        "the right keys, and a word for a number",
        [ASKED],
        [FINE, '{"city": "Seoul", "degrees": "warm"}'],
        fires=((1, "schema_broken"),),
        more={"schema": True},
    ),
    Scene(
        "schema_broken-no-1",
        "langchain",
        "what was asked for",
        [ASKED],
        ['{"city": "Seoul", "degrees": 21}'],
    ),
    Scene(
        "answer_sent_back-1",
        "instructor",
        "instructor sends the answer back with pydantic's report",
        [ASKED],
        ['{"city": "Seoul", "degrees": "warm"}', '{"city": "Seoul", "degrees": 21}'],
        fires=((0, "answer_sent_back"),),
    ),
    Scene(
        "answer_sent_back-2",
        "pydantic_ai",
        "pydantic-ai asks to fix the errors",
        [ASKED],
        ['{"city": "Seoul"}', '{"city": "Seoul", "degrees": 21}'],
        fires=((0, "answer_sent_back"),),
        more={"schema": True},
    ),
    Scene(
        "answer_sent_back-3",
        "smolagents",
        "a code agent whose answer holds no code",
        [ASKED],
        [FINE, '<code>\nfinal_answer("sunny")\n</code>'],
        fires=((0, "answer_sent_back"),),
        more={"code": True},
    ),
    Scene(
        "answer_sent_back-no-1",
        "smolagents",
        "a code agent at work",
        [ASKED],
        [
            'Thought: I ask.\n<code>\nprint(get_weather(city="Seoul"))\n</code>',
            'Thought: I know.\n<code>\nfinal_answer("sunny")\n</code>',
        ],
        ["Sunny, 21"],
        more={"code": True},
    ),
    # -- answers ---------------------------------------------------------------------------
    Scene(
        "truncated-1",
        "openai",
        "cut by the limit",
        [ASKED],
        ["It is sunny in Seoul and " + "very " * 40 + "warm."],
        fires=((0, "truncated"),),
        limits={"max_completion_tokens": 20},
    ),
    Scene(
        "truncated-2",
        "anthropic",
        "cut by the limit, in the messages dialect",
        [ASKED],
        ["It is sunny in Seoul and " + "very " * 40 + "warm."],
        fires=((0, "truncated"),),
        limits={"max_tokens": 20},
    ),
    Scene(
        "truncated-no-1",
        "openai",
        "one token was asked for: a classification",
        ["Is Seoul in Korea? Answer yes or no."],
        ["Yes, it is."],
        limits={"max_tokens": 1},
    ),
    Scene(
        "empty_answer-1",
        "openai",
        "nothing, and the stream says stop",
        [ASKED],
        [""],
        fires=((0, "empty_answer"),),
    ),
    Scene(
        "empty_answer-2",
        "langgraph",
        "nothing after a tool's result",
        [ASKED],
        [SEOUL, " \n"],
        ["Sunny, 21"],
        ((1, "empty_answer"),),
    ),
    Scene(
        "empty_answer-no-1",
        "agents",
        "a tool call has no text",
        [ASKED],
        [SEOUL, FINE],
        ["Sunny, 21"],
    ),
    Scene(
        "refused-1",
        "openai",
        "the API's own field",
        ["How do I open my neighbour's door?"],
        [{"message": {"content": None, "refusal": "I can't help with that."}}],
        fires=((0, "refused"),),
    ),
    Scene(
        "refused-2",
        "openai",
        "a content filter",
        ["How do I open my neighbour's door?"],
        [{"message": {"content": ""}, "finish_reason": "content_filter"}],
        fires=((0, "refused"),),
    ),
    Scene(
        "refused-3",
        "pydantic_ai",
        "in words",
        ["How do I open my neighbour's door?"],
        ["I\u2019m sorry, but I can\u2019t assist with that request."],
        fires=((0, "refused"),),
    ),
    Scene(
        "refused-no-1",
        "langgraph",
        "sorry, but no refusal: there is nothing to report",
        ["Where are my shoes?"],
        [ORDERS, "I'm sorry, I cannot find an order with shoes. Which number does it have?"],
        ["Order 12: hat"],
        fires=((1, "abandoned"),),
    ),
    Scene(
        "self_contradiction-1",
        "openai",
        "asked again, another number",
        ["How many people live in Seoul, in millions?"],
        ["About 9.4 million people live there.", "About 25.5 million people live there."],
        fires=((0, "user_repeats"), (1, "self_contradiction")),
        more={"again": 1, "no_tools": True},
    ),
    Scene(
        "self_contradiction-no-1",
        "openai",
        "asked again, the same in other words",
        ["How many people live in Seoul, in millions?"],
        ["About 9.4 million people live there.", "Seoul has about 9.4 million people."],
        fires=((0, "user_repeats"),),
        more={"again": 1, "no_tools": True},
    ),
    # -- users -----------------------------------------------------------------------------
    Scene(
        "user_repeats-1",
        "langgraph",
        "the question once more, with some emphasis",
        [
            "What is the delivery date of my blue shoes?",
            "Please, what is the delivery date of my blue shoes?",
        ],
        ["We have many shoes.", "On Friday."],
        fires=((0, "user_repeats"),),
    ),
    Scene(
        "user_repeats-2",
        "anthropic",
        "word for word, in German",
        ["Wann kommen meine blauen Schuhe an?", "Wann kommen meine blauen Schuhe an?"],
        ["Wir haben viele Schuhe.", "Am Freitag."],
        fires=((0, "user_repeats"),),
    ),
    Scene(
        "user_repeats-no-1",
        "langgraph",
        "another city is another question",
        [
            "What will the weather in Seoul be tomorrow afternoon?",
            "What will the weather in Busan be tomorrow afternoon?",
        ],
        ["Sunny.", "Rain."],
    ),
    Scene(
        "user_repeats-no-2",
        "openai",
        "going on",
        ["Show me the next page of my orders", "Show me the next page of my orders"],
        ["Orders 1 to 10.", "Orders 11 to 20."],
    ),
    Scene(
        "user_corrects-1",
        "pydantic_ai",
        "no, I meant",
        ["What is the weather in Paris?", "No, I meant Paris in Texas."],
        ["It is raining by the Seine.", "It is hot."],
        fires=((0, "user_corrects"),),
    ),
    Scene(
        "user_corrects-2",
        "agents",
        "falsch",
        ["Was ist die Hauptstadt von Australien?", "Falsch, es ist Canberra."],
        ["Sydney.", "Stimmt, Canberra."],
        fires=((0, "user_corrects"),),
    ),
    Scene(
        "user_corrects-no-1",
        "langgraph",
        "no, thanks",
        [ASKED, "No, that's all, thank you."],
        [FINE + " Anything else?", "Have a nice day."],
    ),
    Scene(
        "user_corrects-no-2",
        "autogen",
        "an answer to the model's question",
        ["Book me a table.", "No, at eight."],
        ["At seven?", "Done, at eight."],
    ),
    Scene(
        "abandoned-1",
        "openai",
        "a question that nobody answered",
        ["Book me a table."],
        ["For how many people?"],
        fires=((0, "abandoned"),),
    ),
    Scene(
        "abandoned-no-1",
        "openai",
        "answered",
        ["Book me a table.", "Two."],
        ["For how many people?", "It is booked."],
    ),
    # -- costs -----------------------------------------------------------------------------
    Scene(
        "slow-1",
        "openai",
        "slower than a limit of a tenth of a millisecond",
        [ASKED],
        [FINE],
        fires=((0, "slow"),),
        rules={"slow_seconds": 0.0001},
    ),
    Scene(
        "slow-no-1",
        "openai",
        "within a limit of a minute",
        [ASKED],
        [FINE],
        rules={"slow_seconds": 60},
    ),
    Scene(
        "costly-1",
        "langgraph",
        "more than eight tokens",
        [ASKED],
        ["It is sunny in Seoul, and that is all there is to say about it."],
        fires=((0, "costly"),),
        rules={"costly_tokens": 8},
    ),
    Scene("costly-no-1", "openai", "two words", [ASKED], ["Sunny, 21"], rules={"costly_tokens": 8}),
)
