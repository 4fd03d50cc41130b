"""Records without secrets: what is replaced in them, and which token ids go with it.

Token ids spell their text. So where a text was changed its ids and log
probabilities are left out: such an answer, or prompt, is not aligned, and
never trained on.
"""

from dataclasses import replace
from typing import Any

import orjson

from gateway.dialects.chat import FoldedChoice
from trajectories.model import Feedback
from trajectories.privacy.secrets import Redactor

_NAMES = ("error", "session_id", "alternates", "task", "agent", "model", "response_id")
_SAID = ("value", "comment", "correction", "metadata")


def without_secrets(record: dict[str, Any], redactor: Redactor) -> dict[str, Any]:
    """A record (of `gateway.call`), with its answer or before it, with its secrets replaced."""
    cleaned = dict(record)
    request = orjson.loads(orjson.dumps(record["request"]))
    cleaned["request"] = redactor.clean(request)
    if cleaned["request"] is not request:
        cleaned["prompt_token_ids"] = ()  # also where they are not known yet: see `payload.shipped`
    if "choices" in cleaned:
        cleaned["choices"] = [_choice(choice, redactor) for choice in record["choices"]]
    for name in _NAMES:
        if name in cleaned:
            cleaned[name] = redactor.clean(cleaned[name])
    return cleaned


def feedback_without_secrets(feedback: Feedback, redactor: Redactor) -> Feedback:
    """A vote with the secrets in what was said replaced; ids and targets stay."""
    if not redactor.finds(feedback.to_json()):
        return feedback
    said = {name: redactor.clean(getattr(feedback, name)) for name in _SAID}
    source = feedback.source.model_copy(update={"id": redactor.text(feedback.source.id)})
    return feedback.model_copy(update={**said, "source": source})


def _choice(
    choice: FoldedChoice | dict[str, Any], redactor: Redactor
) -> FoldedChoice | dict[str, Any]:
    if isinstance(choice, dict):  # read back from the spool
        said = redactor.clean(choice["message"])
        if said is choice["message"]:
            return choice
        return {**choice, "message": said, "token_ids": (), "logprobs": ()}
    message = redactor.clean(choice.message)
    if message is choice.message:
        return choice
    return replace(choice, message=message, token_ids=(), logprobs=())
