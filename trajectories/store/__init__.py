"""The store: transitions, feedback, rewards and trajectories in Redis.

One synchronous class for all three processes, in rooms by subject: `intake`
(transitions), `votes` (feedback, with `targets` and `items`), `scoring` (rewards),
`archiving`, `training` (what the trainer claims), `index` (what records are known
by), `verdicts`, `siblings` and `reading`. Every write is idempotent: the same record twice has
one effect, because a stage may always run twice.
"""

from trajectories.store.erasing import Erasing
from trajectories.store.index import Entry, Index, Noted
from trajectories.store.intake import Intake
from trajectories.store.items import Cursor, Item
from trajectories.store.reading import COUNTS
from trajectories.store.refs import Archivable, Linkage, Scorable, Scored, TrajectoryRef
from trajectories.store.siblings import Siblings
from trajectories.store.targets import Place
from trajectories.store.training import Training
from trajectories.store.verdicts import Verdicts, VerdictState

__all__ = [
    "COUNTS",
    "Archivable",
    "Cursor",
    "Entry",
    "Index",
    "Item",
    "Linkage",
    "Noted",
    "Place",
    "Scorable",
    "Scored",
    "Store",
    "TrajectoryRef",
    "VerdictState",
]


class Store(Intake, Erasing, Training, Siblings, Verdicts):
    """Reads and writes records. Raises redis.RedisError when Redis cannot answer."""
