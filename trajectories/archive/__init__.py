"""The archive: every trajectory for good, as files that any engine reads (docs/archive.md).

`record` is one trajectory as one line, `bodies` how it is made small,
`segments` the files, `index` where in them a trajectory lies, `manifest` what
says that a file exists, `place` where all of it is kept. `Writer` writes,
`Archive` reads, `merged` reads what is in Redis and here as one.
"""

from trajectories.archive.filters import Filters
from trajectories.archive.place import Place
from trajectories.archive.reader import Archive
from trajectories.archive.record import Archived
from trajectories.archive.writer import Writer

__all__ = ["Archive", "Archived", "Filters", "Place", "Writer"]
