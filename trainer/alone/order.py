"""What is asked of a round from a file, and whether a round that was begun is asked for again."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from trainer.delivery.gate import CONFIG
from trainer.delivery.weights import CONFIG as WHOLE_CONFIG
from trajectories.errors import SettingsError
from trajectories.lines import STANDARD
from trajectories.settings import Settings

SORTED_BY = ("rewards", "agents", "privacy")  # sections that decide about rows, beside [trainer]


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for."""

    traffic: Path
    agent: str | None = None
    is_forced: bool = False
    skips_bad: bool = False
    adapter: Path | None = None  # to go on from; None: the base model
    version: int | None = None  # of the adapter; None: one above the newest in the file

    def parent(self, newest: int) -> int:
        """The version that the round starts from, of a file whose newest calls are of `newest`.

        An adapter of which nothing is said sampled none of the file: nothing of it is held
        against the adapter's own log probabilities.
        """
        if self.adapter is None:
            return 0
        return newest + 1 if self.version is None else self.version


def check_start(order: Order, *, is_full: bool = False) -> None:
    """Raise SettingsError where `order` cannot start from what it names."""
    config, kind = (WHOLE_CONFIG, "a whole model") if is_full else (CONFIG, "an adapter")
    if order.adapter is not None and not (order.adapter / config).is_file():
        raise SettingsError(f"--adapter: {order.adapter} holds no {config}: is it {kind}?")
    if order.version is not None and order.adapter is None:
        raise SettingsError("--version is that of --adapter: the base model is version 0")
    if order.version is not None and order.version < 1:
        raise SettingsError("--version is 1 or more: 0 is the base model, without --adapter")


def in_writing(order: Order, settings: Settings, base: Path) -> dict[str, str]:
    """All that decides how a round goes: by option or key, in words."""
    traffic = order.traffic if order.traffic == STANDARD else order.traffic.resolve()
    options = {
        "--from": traffic,
        "--base": base,
        "--adapter": order.adapter,
        "--version": order.version,
        "--agent": order.agent,
        "--force": order.is_forced,
        "--skip-bad": order.skips_bad,
    }
    keys = settings.trainer.model_dump(mode="json")
    sections = settings.model_dump_json(include=set(SORTED_BY))
    return {
        **{name: str(value) for name, value in options.items()},
        **{f"trainer.{name}": str(value) for name, value in keys.items()},
        _SECTIONS: blake2b(sections.encode(), digest_size=8).hexdigest(),
    }


def differences(begun: Mapping[str, str], asked: Mapping[str, str]) -> str:
    """What is asked for otherwise than before, in words; nothing where all is the same."""
    names = [name for name in {**begun, **asked} if begun.get(name) != asked.get(name)]
    return "; ".join(
        f"{name} is another now"
        if name == _SECTIONS
        else f"{name} was {begun.get(name)}, and is {asked.get(name)}"
        for name in names
    )


_SECTIONS = " or ".join(f"[{name}]" for name in SORTED_BY)
