"""`python -m trainer --dry-run`: what a round would learn from now. Changes nothing."""

from redis import Redis
from rich.console import Console

from trainer.batch.batching import demand, look, selection_for, shortages_of
from trainer.tables import counts_table, whole
from trajectories.registry import Registry
from trajectories.settings import Settings
from trajectories.store import Store


def show_round(
    settings: Settings, redis: Redis, *, agent: str | None = None, force: bool = False
) -> int:
    """Print the tables of a round of now; 0 when it would start, 3 when there is too little."""
    store = Store(redis)
    algorithm = settings.trainer.algorithm
    snapshot = Registry(redis, settings.policy, settings.upstream.base_model).snapshot()
    current = snapshot.current
    selection = selection_for(settings, algorithm, current, agent)
    batch = look(store, settings, selection, tuple(snapshot.versions))
    wanted = demand(settings, force=force, principals=store.count_labellers(settings.policy))
    shortages = shortages_of(batch, wanted, selection)
    counts = store.counts()
    of = f" of {agent}" if agent else ""
    recorded = counts_table(
        f"a round of {algorithm}{of} from {settings.policy}@{current}",
        (
            ("trajectories", counts["trajectories"]),
            ("rewarded", counts["rewarded"]),
            ("that somebody voted on", counts["labelled"]),
            ("offered to a round", store.count_trainable(settings.policy)),
            ("used by rounds in the past 30 days", store.count_used(settings.policy)),
        ),
    )
    Console(highlight=False).print(whole(batch, shortages, recorded))
    return 3 if shortages else 0
