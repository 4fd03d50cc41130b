"""Asking a language model for scores: the body, the majority, the cache, the reading of replies."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from redis import Redis

from trajectories import keys
from trajectories.ids import derived_id
from trajectories.settings import JudgeSettings
from workers.verdicts.budget import Purse
from workers.verdicts.opinions import NoVerdict
from workers.verdicts.outgoing import post
from workers.verdicts.transcript import RULES, new_code, quoted

log = logging.getLogger(__name__)

SCALE = 10  # scores are asked for as 0, 1, ... 10: what every grammar can hold a model to
MAX_REPLY_CHARACTERS = 65_536  # of more, the end
NO_SCORE = "null, when it cannot be told"


@dataclass(frozen=True, slots=True)
class Score:
    """What a judge says of one thing, in [0, 1]; None: that it cannot tell."""

    value: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask: the task, the things to judge, and how to read the reply's JSON object."""

    task: str
    parts: Sequence[str]  # quoted one by one
    schema: dict[str, Any]
    read: Callable[[dict[str, Any]], list[Score]]

    @property
    def size(self) -> int:
        """Characters to be read."""
        return len(self.task) + sum(len(part) for part in self.parts)


class Oracle:
    """One judge's model, asked on behalf of one tenant at a time."""

    def __init__(
        self, name: str, settings: JudgeSettings, *, url: str, key: str | None, rubric: str
    ) -> None:
        self.name = name
        self.settings = settings
        self.rubric = rubric
        self._url = f"{url.rstrip('/')}/v1/chat/completions"
        self._key = key
        self._is_plain = settings.output == "text"  # whether `response_format` is left out

    def ask(self, question: Question, redis: Redis, purse: Purse, tenant: str) -> list[Score]:
        """The majority's scores; raises NoVerdict when there is none.

        Of k calls more than half have to succeed; a score is the median of theirs.
        """
        cache_key = keys.opinion(tenant, self._digest(question))
        client: Any = redis
        if self.settings.cache_days and (found := client.get(cache_key)):
            return [
                Score(value, "the same content was judged before") for value in json.loads(found)
            ]
        replies: list[list[Score]] = []
        failures: list[NoVerdict] = []
        needed = self.settings.votes // 2 + 1
        for number in range(self.settings.votes):
            if len(replies) + self.settings.votes - number < needed:
                break  # no majority any more
            try:
                replies.append(self._reply(question, purse))
            except NoVerdict as failure:
                failures.append(failure)
        if len(replies) < needed:
            usual = Counter(failure.reason for failure in failures).most_common(1)[0][0]
            raise next(failure for failure in failures if failure.reason == usual)
        scores = [_middle(of_one, needed) for of_one in zip(*replies, strict=True)]
        if self.settings.cache_days:
            seconds = int(self.settings.cache_days * keys.DAY)
            values = json.dumps([score.value for score in scores])
            client.set(cache_key, values, ex=max(1, seconds))
        return scores

    def _digest(self, question: Question) -> str:
        """The same rubric, model, way of asking and content: the same verdict."""
        own = self.settings
        way = (own.kind, own.version, own.model, self._url, own.output, own.votes)
        way_on = (own.temperature, own.max_tokens, own.reasons)
        return derived_id("op", repr((way, way_on)), self.rubric, question.task, *question.parts)

    def _reply(self, question: Question, purse: Purse) -> list[Score]:
        """One call's scores."""
        reserved = question.size // 3 + self.settings.max_tokens
        day = purse.reserve(reserved)
        used = reserved
        try:
            reply = self._call(question, is_plain=self._is_plain)
            if reply.status in (400, 422) and not self._is_plain:
                log.info("judge %s: the server takes no response_format", self.name)
                plain = self._call(question, is_plain=True)
                self._is_plain = plain.status == 200
                reply = plain
            if reply.status != 200:
                used = 0
                raise NoVerdict("status", f"the judge's server answered {reply.status}")
            body = _json(reply.body)
            used = _tokens(body, reserved)
            return question.read(last_object(_content(body)))
        finally:
            purse.settle(day, reserved, used)

    def _call(self, question: Question, *, is_plain: bool) -> Any:
        own = self.settings
        code = new_code("".join(question.parts))
        if len(question.parts) == 1:
            material = quoted(question.parts[0], code)
        else:
            material = "\n\n".join(
                quoted(part, code, str(number)) for number, part in enumerate(question.parts, 1)
            )
        shape = json.dumps(_example(question.schema))
        system = (
            f"You are a judge. {question.task}\n\nRubric:\n{self.rubric}\n\n"
            f"{RULES.format(code=code)}\n\nAnswer with one JSON object and nothing else, of the"
            f" form {shape}. A score is a whole number from 0 (worst) to {SCALE} (best)."
        )
        body: dict[str, Any] = {
            "model": own.model,
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": material},
            ],
            "max_tokens": own.max_tokens,
            "temperature": own.temperature
            if own.temperature is not None
            else (0.7 if own.votes > 1 else 0.0),
        }
        if not is_plain and own.output == "json_schema":
            schema = {"name": "verdict", "strict": True, "schema": question.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif not is_plain:
            body["response_format"] = {"type": "json_object"}
        headers = {"content-type": "application/json", "x-ratchet-no-record": "1"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        raw = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        return post(self._url, raw, headers, own.timeout_seconds)


def score_schema(*, can_abstain: bool = False) -> dict[str, Any]:
    """The JSON schema of a score."""
    numbers: list[int | None] = list(range(SCALE + 1))
    if can_abstain:
        return {"type": ["integer", "null"], "enum": [*numbers, None]}
    return {"type": "integer", "enum": numbers}


def object_schema(**properties: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema as strict servers want it: every property required, no other allowed."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def read_score(said: Any, *, can_abstain: bool = False) -> Score:
    """The score in an object of a reply; raises NoVerdict `garbage` or `out_of_range`."""
    if not isinstance(said, dict):
        raise NoVerdict("garbage", "a score stands in an object")
    value = said.get("score")
    reason = said.get("reason")
    text = reason if isinstance(reason, str) else ""
    if value is None and can_abstain and "score" in said:
        return Score(None, text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NoVerdict("garbage", f"a score is a number, not {type(value).__name__}")
    if not 0 <= value <= SCALE:
        raise NoVerdict("out_of_range", f"the score {value!r:.40} is not between 0 and {SCALE}")
    return Score(value / SCALE, text)


def last_object(text: str) -> dict[str, Any]:
    """The last JSON object in a reply: models think aloud and fence what they write.

    Raises NoVerdict `garbage` when there is none.
    """
    decoder = json.JSONDecoder()
    text = text[-MAX_REPLY_CHARACTERS:]
    found: dict[str, Any] | None = None
    position = text.find("{")
    while position >= 0:
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            end = position + 1
        else:
            found = value
        position = text.find("{", end)
    if found is None:
        raise NoVerdict("garbage", f"the reply of {len(text)} characters holds no JSON object")
    return found


def _middle(scores: Sequence[Score], needed: int) -> Score:
    """The median of several scores of one thing, with a reason of who came nearest."""
    values = [score.value for score in scores if score.value is not None]
    if len(values) < needed:
        return Score(None)
    middle = float(median(values))
    nearest = min(
        (score for score in scores if score.value is not None),
        key=lambda score: abs((score.value or 0.0) - middle),
    )
    return Score(middle, nearest.reason)


def _json(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise NoVerdict(
            "garbage", "the judge's server answered something else than JSON"
        ) from error
    if not isinstance(body, dict):
        raise NoVerdict("garbage", "the judge's server answered no JSON object")
    return body


def _content(body: dict[str, Any]) -> str:
    """The text of a chat completion."""
    try:
        content = body["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise NoVerdict("garbage", "the judge's server answered no chat completion") from error
    if not isinstance(content, str):
        raise NoVerdict("garbage", "the judge's answer has no text")
    return content


def _tokens(body: dict[str, Any], otherwise: int) -> int:
    usage = body.get("usage")
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    is_number = isinstance(total, int) and not isinstance(total, bool) and total >= 0
    return int(total) if is_number and total is not None else otherwise


def _example(schema: dict[str, Any]) -> Any:
    """What a schema looks like when it is filled in, for models that are not held to it."""
    kind = schema.get("type")
    if kind == "object":
        return {name: _example(inner) for name, inner in schema["properties"].items()}
    if kind == "array":
        return [_example(schema["items"])]
    if kind == "string":
        return "one or two sentences"
    return NO_SCORE if isinstance(kind, list) else 7
