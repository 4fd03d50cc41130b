"""Takes votes: looks up what is known of them, refuses or keeps them, and answers.

A vote travels as records do: spool, stream, dispatcher. So it is never lost
because it came early, late, twice, or while Redis was away; the answer only
says what is known now. What cannot be asked is left to the workers.
"""

import threading
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from gateway.access import Caller
from gateway.attribution import clean_id
from gateway.errors import ApiError
from gateway.feedback_body import FeedbackBody, invalid
from gateway.feedback_fate import training_of
from gateway.feedback_record import said_with, to_records
from gateway.redaction import feedback_without_secrets
from gateway.services import Services
from trajectories.connection import RedisError
from trajectories.errors import RecordError, SpoolError
from trajectories.model import Feedback, Retraction
from trajectories.standing import said
from trajectories.store import Item, Place

MOST_PENDING = 10_000  # votes of one tenant that wait for what they are about
_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client is told, and what there is to keep first."""

    status: int
    content: dict[str, Any]
    records: tuple[Feedback, ...] = ()


class RecentVotes:
    """Ids of votes that this process took lately: they may not have reached Redis yet."""

    def __init__(self) -> None:
        self._digests: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._mutex = threading.Lock()

    def add(self, vote: Feedback) -> None:
        with self._mutex:
            self._digests[vote.tenant, vote.id] = vote.digest
            while len(self._digests) > _REMEMBERED:
                self._digests.popitem(last=False)

    def digest(self, tenant: str, feedback_id: str) -> str | None:
        """The digest of the body under an id; None when it is not remembered."""
        return self._digests.get((tenant, feedback_id))


class Desk:
    """Where votes come in, one request after the other. Used from FastAPI's threads."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._store = services.store
        self.recent = RecentVotes()

    def consider(
        self,
        body: FeedbackBody,
        caller: Caller,
        *,
        path_session: str | None,
        is_strict: bool = False,
        has_redis: bool = True,
        is_brief: bool = False,
        now: float | None = None,
    ) -> Answer:
        """What to answer to a vote, and the records to keep; raises ApiError for a refusal.

        A brief answer says nothing of the transition that is meant, which takes reading it.
        Without Redis a strict vote is a RedisError, and any other is kept unseen.
        """
        records = self.records_of(body, caller, path_session, time.time() if now is None else now)
        vote = records[0]
        status = 200 if body.is_plain_200 else 202
        if not has_redis and not is_strict:
            return self._accepted(status, body, records, None, is_brief)
        if body.id is not None and (earlier := self._earlier(vote)) is not None:
            return Answer(200, earlier)
        place = self._place(body, vote, is_strict)
        return self._accepted(status, body, records, place, is_brief)

    def keep(self, votes: list[Feedback]) -> None:
        """Bring records to the spool and count them; raises ApiError 503 when that failed."""
        try:
            self.services.recorder.keep_all(votes)
        except SpoolError as error:
            raise not_stored() from error
        for vote in votes:
            self.recent.add(vote)

    def count(self, vote: Feedback, status: str) -> None:
        """Count an accepted vote."""
        known = self.services.settings.rewards.metrics
        name = vote.name if vote.name in _NAMES or vote.name in known else "other"
        self.services.metrics.feedback.labels(name, vote.source.type, status).inc()

    def retract(self, caller: Caller, feedback_id: str) -> Answer:
        """Take a vote back; raises ApiError 404 when the tenant has none of that id."""
        content: dict[str, Any] = {"feedback_id": feedback_id, "status": "retracted"}
        try:
            item = self._store.item(caller.tenant, feedback_id)
            if item is not None and item.retracted_at is not None:
                return Answer(200, {**content, **self._used_by(item)})
            if item is None and self.recent.digest(caller.tenant, feedback_id) is None:
                raise unknown_feedback(feedback_id)
            used = self._used_by(item) if item is not None else {}
            status = 200
        except RedisError:
            used, status = {}, 202  # it is applied when Redis is back, if there is such a vote
        now = time.time()
        retractions = [
            Retraction(feedback_id=taken, tenant=caller.tenant, received_at=now)
            for taken in (feedback_id, *said_with(feedback_id))
        ]
        try:
            self.services.recorder.keep_all(retractions)
        except SpoolError as error:
            raise not_stored() from error
        return Answer(status, {**content, **used})

    def view(self, item: Item, *, is_brief: bool = False) -> dict[str, Any]:
        """A vote as its tenant may see it, with what became of it."""
        content = self._state(item, is_brief=is_brief)
        if item.vote is not None:
            hidden = {"has_own_id", "tenant", "transition_id", "retracted_at"}
            content = {**item.vote.model_dump(mode="json", exclude=hidden), **content}
        return content

    def history(self, item: Item) -> list[dict[str, Any]]:
        """The votes that this one replaced, or that replaced it: oldest first."""
        if item.vote is None or item.ref is None:
            return []
        votes = self._store.votes_on(item.ref)
        joined = item.vote.model_copy(update={"transition_id": item.transition_id})
        return [
            {
                "feedback_id": vote.id,
                "value": vote.value,
                "reward": vote.reward,
                "received_at": vote.received_at,
                "status": "attached" if vote.retracted_at is None else "retracted",
            }
            for vote in votes
            if said(vote) == said(joined) and vote.id != item.id
        ]

    def records_of(
        self, body: FeedbackBody, caller: Caller, path_session: str | None, now: float
    ) -> list[Feedback]:
        """The vote, without secrets, and what was said besides; ApiError for a refusal."""
        redactor = self.services.redactor
        self._check_source(body)
        if body.output_text is not None:  # as the answer that is looked for was recorded
            body = body.model_copy(update={"output_text": redactor.text(body.output_text)})
        records = to_records(
            body,
            self.services.settings.rewards,
            # A UUID where we choose: some clients parse it as one.
            feedback_id=body.id or str(uuid.uuid4()),
            tenant=caller.tenant,
            key=caller.key_id,
            path_session=path_session,
            now=now,
        )
        return [feedback_without_secrets(record, redactor) for record in records]

    def _check_source(self, body: FeedbackBody) -> None:
        """Nobody speaks for what gives verdicts here: its votes are never capped."""
        source = body.source
        if source is not None and source.id in self.services.settings.verdict_sources:
            message = (
                f"{source.id} is the name of a judge, webhook or custom reward of this gateway"
            )
            raise invalid("source", f"{message}: call yourself something else")

    def _earlier(self, vote: Feedback) -> dict[str, Any] | None:
        """The first answer, where this id was used before; raises 422 for another body."""
        item = self._store.item(vote.tenant, vote.id)
        if item is not None and item.vote is not None:
            if item.digest not in (None, vote.digest):
                raise _id_reused(vote)
            return self._state(item)
        known = self.recent.digest(vote.tenant, vote.id)
        if known is None:
            return None
        if known != vote.digest:
            raise _id_reused(vote)
        places = self._store.places(vote)
        return self._content(vote, places[0] if len(places) == 1 else None)

    def _place(self, body: FeedbackBody, vote: Feedback, is_strict: bool) -> Place | None:
        places = self._store.places(vote)
        if len(places) > 1:
            message = f"{len(places)} answers fit: name one by its response_id or request_id"
            field = (vote.named or "response_id").partition(":")[0]
            param = {"text": "output_text", "tool_call": "tool_call_id"}.get(field, field)
            raise invalid(param, message, "ambiguous_target")
        if places:
            self._check_task(body, places[0])
            return places[0]
        if vote.within is not None and self._store.places(vote.model_copy(update={"within": None})):
            message = "the response and the session or trajectory do not belong together"
            raise invalid("response_id", message, "target_conflict")
        if is_strict:
            raise _unknown_target(vote)
        if self._store.count_pending(vote.tenant) >= MOST_PENDING:
            message = f"{MOST_PENDING} votes wait for what they are about: send this one later"
            raise ApiError(429, "too_many", message, retry_after=60)
        return None

    def _check_task(self, body: FeedbackBody, place: Place) -> None:
        task = clean_id(body.task_id)
        if task is None or place.transition_id is None:
            return
        try:
            transition = self._store.transition(place.ref.tenant, place.transition_id)
        except RecordError:
            return
        if transition is not None and transition.task not in (None, task):
            message = "the response and the task do not belong together"
            raise invalid("task_id", message, "target_conflict")

    def _accepted(
        self,
        status: int,
        body: FeedbackBody,
        records: list[Feedback],
        place: Place | None,
        is_brief: bool,
    ) -> Answer:
        content = self._content(records[0], place, is_brief=is_brief)
        if body.dry_run:
            return Answer(200, content)
        return Answer(status, content, tuple(records))

    def _content(
        self, vote: Feedback, place: Place | None, *, is_brief: bool = False
    ) -> dict[str, Any]:
        content: dict[str, Any] = {
            "feedback_id": vote.id,
            "status": "attached" if place else "pending",
            "trajectory_id": place.ref.id if place else vote.trajectory_id,
            "reward": vote.reward,
        }
        if is_brief:
            return content
        try:
            return content | self._fate(vote, place)
        except RecordError:  # what is stored of it cannot be read: then nobody knows
            return content

    def _fate(self, vote: Feedback, place: Place | None) -> dict[str, Any]:
        """Which transition is meant, and what training will make of the vote."""
        content: dict[str, Any] = {}
        transition = None
        if place is not None:
            is_whole = vote.trajectory_id is not None and vote.step is None
            found = self._store.meant(place, vote)
            if found is None and not is_whole:
                reason = "superseded" if vote.step is None else "step"
                return {"training": "ignored", "reason": reason}
            if found is not None:
                transition = found[1]
                if not is_whole:
                    content["step"] = found[0]
                if transition.policy_version is not None:
                    content["policy"] = transition.policy_version
        policies = self.services.policies
        policy = policies.default
        if transition is not None:
            policy = policies.get(transition.policy) or policy
        return content | training_of(
            vote,
            transition,
            current=policy.snapshot.current,
            max_staleness=policy.settings.trainer.max_staleness,
        )

    def _state(self, item: Item, *, is_brief: bool = False) -> dict[str, Any]:
        """What became of a vote that has arrived."""
        content: dict[str, Any] = {"feedback_id": item.id, "trajectory_id": None, "reward": None}
        if item.vote is not None:
            place = Place(item.ref, item.transition_id) if item.ref is not None else None
            content = self._content(item.vote, place, is_brief=is_brief)
        content["status"] = item.status
        if item.retracted_at is not None:
            content.pop("training", None)
            content.pop("reason", None)
            content["retracted_at"] = item.retracted_at
            content |= self._used_by(item)
        return content

    def _used_by(self, item: Item) -> dict[str, Any]:
        """The policy versions that were trained on what a vote was about, if there are any."""
        if item.ref is None:
            return {}
        content: dict[str, Any] = {}
        policies = self.services.policies
        for policy in policies:
            used = self._store.used_by(policy.name, policy.snapshot.versions, item.ref)
            if used and policy is policies.default:
                content["used_by"] = used
            elif used:
                content.setdefault("used_by_policies", {})[policy.name] = used
        return content


_NAMES = frozenset({"reward", "rating", "satisfied", "used_result", "comment", "demonstration"})


def not_stored() -> ApiError:
    message = "the feedback could not be stored; send it again"
    return ApiError(503, "not_stored", message, retry_after=5)


def no_redis() -> ApiError:
    return ApiError(503, "not_stored", "Redis cannot be reached now", retry_after=2)


def unknown_feedback(feedback_id: str) -> ApiError:
    message = f"there is no feedback {feedback_id}, or it has not arrived yet"
    return ApiError(404, "unknown_feedback", message)


def _id_reused(vote: Feedback) -> ApiError:
    return invalid("id", f"the id {vote.id} was used for other feedback", "id_reused")


def _unknown_target(vote: Feedback) -> ApiError:
    message = (
        f"nothing was recorded under {vote.target} yet. A record needs a moment to arrive:"
        " leave out strict=1, and the feedback waits for it"
    )
    return ApiError(404, "unknown_target", message)
