"""Bodies written for other products, as fields of ours. Pure.

Task and span: `{"task_id", "span_id", "reward", "feedback_text", "metadata":
{"rating", "satisfied", "used_result"}}`. Metrics: `{"metric_name", "value",
"inference_id" or "episode_id", "dryrun"}`, with the reserved names `comment` and
`demonstration`.
"""

from typing import Any

from gateway.errors import ApiError

_BONUSES = ("satisfied", "used_result")
BESIDES = (*_BONUSES, "rating")  # names of `also`
_RESERVED = {"comment": "comment", "demonstration": "correction"}


def unfold_styles(body: dict[str, Any]) -> dict[str, Any]:
    """Turn the parts of `body` that a style names into our fields; what the style adds."""
    added: dict[str, Any] = {}
    if "metric_name" in body:
        _unfold_metric(body)
        added["is_plain_200"] = True
    if "span_id" in body or ("task_id" in body and "reward" in body):
        added |= _task_style(body)
    return added


def _unfold_metric(body: dict[str, Any]) -> None:
    named = [name for name in ("inference_id", "episode_id") if body.get(name) is not None]
    if len(named) == 2:
        message = "give one of inference_id and episode_id, not both"
        raise ApiError(422, "many_targets", message, param="episode_id")
    field = _RESERVED.get(str(body["metric_name"]))
    if field is not None and "value" in body and field not in body:
        body[field] = body.pop("value")


def _task_style(body: dict[str, Any]) -> dict[str, Any]:
    """The rating is the base where there is no reward; the rest is said besides."""
    metadata = body.get("metadata")
    if not isinstance(metadata, dict):
        return {}
    bonuses = {name: metadata[name] for name in _BONUSES if isinstance(metadata.get(name), bool)}
    also: dict[str, Any] = dict(bonuses)
    rating = metadata.get("rating")
    if isinstance(rating, int | float) and not isinstance(rating, bool) and 1 <= rating <= 5:
        also["rating"] = float(rating)
        if all(body.get(form) is None for form in ("reward", "value", "score", "thumb", "rating")):
            body["rating"] = float(rating)
    return {"bonuses": bonuses, "also": also}
