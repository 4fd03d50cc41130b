"""The scrub of a trajectory: the same name for the same person, and no token ids that spell it."""

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajectories.errors import ScrubError, SettingsError
from trajectories.model import Choice, Feedback, Reward, Trajectory, Transition
from trajectories.privacy import scrubber as scrubbing
from trajectories.privacy.personal import FINDERS, Span
from trajectories.privacy.scrubber import Scrubber
from trajectories.privacy.users import pseudonym, users_of
from trajectories.settings import PrivacySettings

SCRUBBER = Scrubber(PrivacySettings().scrub)


def said(number: int, question: str, answer: str) -> Transition:
    return Transition(
        id=f"tr_{number}",
        trajectory_id="traj_1",
        gateway="gw",
        started_at=float(number),
        latency_seconds=1,
        request={"messages": [{"role": "user", "content": question}], "user": "u-1"},
        model="m",
        prompt_token_ids=(1, 2),
        choices=(
            Choice(
                message={"role": "assistant", "content": answer},
                token_ids=(3, 4),
                logprobs=(-0.5, -0.25),
            ),
        ),
    )


def trajectory(*transitions: Transition, **fields: object) -> Trajectory:
    return Trajectory(id="traj_1", started_at=1, updated_at=2, transitions=transitions, **fields)


def test_a_person_keeps_one_name_through_a_trajectory() -> None:
    scrubbed = SCRUBBER.scrub(
        trajectory(
            said(1, "I am ann@example.org", "Hello ann@example.org"),
            said(2, "not ANN@example.org but bob@example.org", "Hello"),
            session_id="ann@example.org",
        )
    )
    first, second = scrubbed.transitions
    assert first.request["messages"][0]["content"] == "I am <EMAIL_1>"
    assert first.choices[0].message["content"] == "Hello <EMAIL_1>"
    assert second.request["messages"][0]["content"] == "not <EMAIL_1> but <EMAIL_2>"
    assert scrubbed.session_id == "<EMAIL_1>"


def test_token_ids_go_with_the_text_they_spell() -> None:
    first = said(1, "ann@example.org", "hello").model_copy()
    second = said(2, "hello", "ann@example.org")
    second = second.model_copy(update={"request": {"messages": []}})
    asked, answered = SCRUBBER.scrub(trajectory(first, second)).transitions
    assert (asked.prompt_token_ids, asked.choices[0].token_ids) == ((), (3, 4))
    assert answered.prompt_token_ids == (1, 2)
    assert (answered.choices[0].token_ids, answered.choices[0].logprobs) == ((), ())
    assert not answered.choices[0].is_aligned


def test_what_is_clean_is_the_same_object() -> None:
    clean = said(1, "hello", "hello").model_copy(update={"request": {"messages": []}})
    (kept,) = SCRUBBER.scrub(trajectory(clean)).transitions
    assert kept is clean
    assert not SCRUBBER.has_personal(clean)
    assert SCRUBBER.has_personal(said(1, "a@example.org", ""))


def test_votes_and_reasons_are_scrubbed_under_the_same_names() -> None:
    vote = Feedback(
        id="f1",
        identity="i",
        trajectory_id="traj_1",
        comment="ask ann@example.org",
        correction=[{"content": "+49 30 901820"}],
        metadata={"extra": {"mail": "new@example.org"}},
        received_at=1,
    )
    reward = Reward(id="r", trajectory_id="traj_1", name="n", source="s", value=0, reason="a@b.org")
    found, votes, _ = SCRUBBER.scrub_all(
        trajectory(said(1, "ann@example.org", ""), rewards=(reward,)), [vote]
    )
    assert votes[0].comment == "ask <EMAIL_1>"
    assert votes[0].correction == [{"content": "<PHONE_1>"}]
    assert votes[0].metadata["extra"]["mail"].startswith("<EMAIL_")
    assert found.rewards[0].reason.startswith("<EMAIL_")


def test_scrubbing_again_changes_nothing_and_new_names_are_new() -> None:
    once = SCRUBBER.scrub(trajectory(said(1, "ann@example.org", "")))
    assert SCRUBBER.scrub(once) == once
    more = said(2, "<EMAIL_1> and carl@example.org", "")
    asked = SCRUBBER.scrub(trajectory(more)).transitions[0].request["messages"][0]["content"]
    assert asked == "<EMAIL_1> and <EMAIL_2>"


def test_of_two_that_overlap_nothing_is_left() -> None:
    text = "call +49 30 9018207 4111 1111 1111 1111 now"
    (span,) = SCRUBBER.spans(text)
    assert text[: span.start] + text[span.end :] == "call  now"


def test_two_side_by_side_are_two() -> None:
    spans = SCRUBBER.spans("GB82 WEST 1234 5698 7654 32 and 4111 1111 1111 1111")
    assert [span.kind for span in spans] == ["IBAN", "CARD"]


def test_an_unknown_name_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(SettingsError, match=r'there is no "surnames" .*emails, phones'):
        Scrubber(["surnames"])


def test_nothing_chosen_changes_nothing() -> None:
    found = trajectory(said(1, "ann@example.org", ""))
    assert Scrubber([]).scrub(found) is found
    assert not Scrubber([]).has_personal(found.transitions[0])


def find_names(text: str) -> Iterator[Span]:
    """A package's finder, as its entry point names it."""
    if (start := text.find("Ann")) >= 0:
        yield Span(start, start + 3, "NAME")


def fail(text: str) -> Iterator[Span]:
    raise RuntimeError(text)


@pytest.mark.parametrize("name", ["find_names", "fail"])
def test_a_package_may_add_a_finder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ours(EntryPoint):
        def load(self) -> object:
            return globals()[name]

    entry = Ours("names", f"{__name__}:{name}", scrubbing.GROUP)
    monkeypatch.setattr(scrubbing, "entry_points", lambda group: [entry])
    ours = Scrubber(["names", "emails"])
    found = trajectory(said(1, "Ann is a@example.org", ""))
    if name == "find_names":
        asked = ours.scrub(found).transitions[0].request["messages"][0]["content"]
        assert asked == "<NAME_1> is <EMAIL_1>"
    else:
        with pytest.raises(ScrubError, match="RuntimeError") as raised:
            ours.scrub(found)
        assert "Ann" not in str(raised.value)  # no prompt in an error


@given(st.lists(st.sampled_from(["a@example.org", "b@example.org", "4111111111111111", "x "])))
def test_every_detail_is_gone_and_as_many_names_are_left(words: list[str]) -> None:
    text = " ".join(words)
    (found,) = SCRUBBER.scrub(trajectory(said(1, text, ""))).transitions
    asked = found.request["messages"][0]["content"]
    assert "@" not in asked
    assert len(set(asked.split())) == len(set(text.split()))


def test_presidio_finds_what_has_no_pattern_here(tmp_path: Path) -> None:
    pytest.importorskip("presidio_analyzer")
    spacy = pytest.importorskip("spacy")
    from trajectories.privacy.presidio import open_presidio

    spacy.blank("en").to_disk(tmp_path / "blank")  # its own patterns need no trained model
    find = open_presidio(str(tmp_path / "blank"))
    text = "my wallet is 1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"
    assert [(text[s.start : s.end], s.kind) for s in find(text)] == [
        ("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "CRYPTO")
    ]
    assert set(FINDERS) & {"presidio"} == set()


def test_presidio_that_is_not_installed_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(SettingsError, match=r"pip install ratchet-gateway\[presidio\]"):
        Scrubber(["presidio"])


def test_a_users_id_that_has_to_go_can_still_be_found_by_who_knows_it() -> None:
    keyed = Scrubber(["emails"], user_key=b"k" * 32)
    found = said(1, "hello", "hello")
    for request in (
        {"user": "ann@example.org"},
        {"safety_identifier": "ann@example.org"},
        {"metadata": {"user_id": "ann@example.org"}},
    ):
        call = found.model_copy(update={"request": request})
        (scrubbed,) = keyed.scrub(trajectory(call)).transitions
        assert list(users_of(scrubbed.request)) == [pseudonym("ann@example.org", b"k" * 32)]
        assert scrubbed.prompt_token_ids == (1, 2)  # the id is no part of the prompt
        assert not keyed.has_personal(call)
    plain = found.model_copy(update={"request": {"user": "u-17"}})
    assert keyed.scrub(trajectory(plain)).transitions == (plain,)
