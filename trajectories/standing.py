"""Which votes on a trajectory stand, and what each is about. Pure, and free of order.

All votes are kept. Of those without an id of their own that one source gave
under one name to one target the last one stands; where that one was taken back,
none does. What a vote is about is looked up here, because more transitions may
have come since: the third from the end is counted as it was when it was said.
"""

from collections.abc import Iterable, Sequence

from trajectories.model import Feedback, Transition

Rank = tuple[float, str, bool]


def standing_votes(
    transitions: Sequence[Transition], votes: Iterable[Feedback]
) -> tuple[Feedback, ...]:
    """The votes that stand, by their ids; `transition_id` is set where one is the target.

    `transitions` are those of the trajectory, in order. A vote on a transition that is not
    among them (a retry replaced it, it expired, there is no such step) is left out.
    """
    last: dict[tuple[str, ...], tuple[Rank, Feedback]] = {}
    for vote in votes:
        found = _target(transitions, vote)
        if found is None:
            continue
        rank = (vote.received_at, vote.id, vote.retracted_at is not None)
        key = said(found)
        if key not in last or last[key][0] < rank:
            last[key] = (rank, found)
    kept = [vote for _, vote in last.values() if vote.retracted_at is None]
    return tuple(sorted(kept, key=lambda vote: vote.id))


def step_of(transitions: Sequence[Transition], vote: Feedback) -> int | None:
    """The index of the transition a vote is about; None: there is none, or it is of them all."""
    if vote.step is None:
        wanted = vote.transition_id
        for index, transition in enumerate(transitions):
            if transition.id == wanted or (
                wanted is None
                and vote.response_id is not None
                and transition.response_id == vote.response_id
            ):
                return index
        return None
    if vote.step >= 0:
        return vote.step if vote.step < len(transitions) else None
    begun = sum(transition.started_at <= vote.received_at for transition in transitions)
    index = begun + vote.step
    return index if index >= 0 else None


def _target(transitions: Sequence[Transition], vote: Feedback) -> Feedback | None:
    if vote.trajectory_id is not None and vote.step is None:
        return vote
    index = step_of(transitions, vote)
    if index is None:
        return None
    return vote.model_copy(update={"transition_id": transitions[index].id})


def said(vote: Feedback) -> tuple[str, ...]:
    """Equal for votes on one trajectory of which the last one stands.

    `transition_id` has to be filled in where one is the target; else `step` tells them apart.
    """
    if vote.has_own_id:
        return (vote.identity,)
    step = "" if vote.step is None else str(vote.step)
    choice = () if vote.choice is None else (str(vote.choice),)
    return (vote.transition_id or step, vote.name, vote.source.type, vote.source.id, *choice)
