"""Why something was left out, in words of who runs Ratchet, and the setting that decides it."""

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.batch.samples import Exclusion


@dataclass(frozen=True, slots=True)
class Reason:
    """What happened, and where to look when it should not have."""

    text: str
    setting: str = ""  # empty: nothing to set


REASONS: Mapping[Exclusion, Reason] = {
    Exclusion.OPEN: Reason("more came since it closed", "rewards.label_window_seconds"),
    Exclusion.NO_REWARD: Reason("nobody said anything, and no signal fired", "rewards.ask_share"),
    Exclusion.FOREIGN_MODEL: Reason("answered by another model or policy", "policy"),
    Exclusion.MIXED: Reason("an engine's weights changed while it answered: whose words are they?"),
    Exclusion.OPTED_OUT: Reason("the client asked that nothing be learned from it"),
    Exclusion.OTHER_TENANT: Reason("another tenant's traffic", "policy_tenant"),
    Exclusion.PERSONAL: Reason(
        "holds what identifies people, as tokens too", "privacy.train_on_personal"
    ),
    Exclusion.AGENT_OFF: Reason(
        "an agent that is switched off, or not this round's", "agents.NAME.train"
    ),
    Exclusion.INCOMPLETE: Reason("the model's server broke off"),
    Exclusion.DISCONNECTED: Reason("the client left before the end"),
    Exclusion.FAILED: Reason("there was no answer"),
    Exclusion.NOT_ALIGNED: Reason(
        "no token ids, or not a log probability for each: was it recorded from vLLM?"
    ),
    Exclusion.TOO_LONG: Reason(
        "prompt and answer are too long (for SFT and KTO, see trainer.cut_context)",
        "trainer.max_length",
    ),
    Exclusion.STALE: Reason("sampled by too old a version", "trainer.max_staleness"),
    Exclusion.NO_RATIO: Reason(
        "sampled greedily, cut hard, or by a grammar and an older version (SFT takes it)",
        "trainer.algorithm",
    ),
    Exclusion.NOT_POSITIVE: Reason("not good enough to imitate", "trainer.sft_threshold"),
    Exclusion.UNPAIRED: Reason("no other answer to the same prompt was judged otherwise"),
    Exclusion.ROLLOUTS: Reason("siblings beyond their share of a round", "trainer.rollout_share"),
    Exclusion.CAPPED: Reason(
        "its labels are above somebody's share: a later round", "rewards.max_share_per_source"
    ),
    Exclusion.IGNORED: Reason("labelled by an ignored source only", "rewards.ignored_sources"),
    Exclusion.UNPICKED: Reason(
        "one of several choices: not known to have been taken, and not voted on by itself"
    ),
    Exclusion.MISSING: Reason("its record has expired", "trainer.cold"),
}
