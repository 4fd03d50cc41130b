"""Every error Ratchet raises on purpose, as one tree.

    RatchetError
    |-- SettingsError          a setting is missing or wrong: says which and what to write
    |-- SpoolError             the write-ahead spool refused a record
    |   `-- SpoolFull          its byte budget is used up
    |-- RecordError            stored or received bytes are not a record
    |-- ArchiveError           a file of the archive is damaged, or could not be written
    |-- UnknownTarget          feedback names something that was never recorded
    |-- RegistryError          a policy version cannot make that move
    |-- AdapterError           an adapter directory must not serve: says why
    |-- EngineError            vLLM refused a load, an unload or a probe
    |-- ScrubError             a text could not be looked at for what identifies people
    `-- NotEnoughRewards       a round was asked for and there is too little to learn from

Code raises these; only the outermost loop of each process and the last HTTP
handler of the gateway catch them.
"""


class RatchetError(Exception):
    """Root of the tree."""


class SettingsError(RatchetError):
    """A setting is missing or wrong."""


class SpoolError(RatchetError):
    """The spool could not take a record."""


class SpoolFull(SpoolError):
    """The spool has reached its byte budget."""


class RecordError(RatchetError):
    """Bytes that should hold a record do not."""


class ArchiveError(RatchetError):
    """A file of the archive is damaged, or could not be written."""


class UnknownTarget(RatchetError):
    """Feedback names a response or a session that was never recorded."""


class RegistryError(RatchetError):
    """A policy version cannot make the move that was asked of it."""


class AdapterError(RatchetError):
    """An adapter directory must not serve."""


class EngineError(RatchetError):
    """The inference engine refused a request of the swap controller."""


class ScrubError(RatchetError):
    """A finder of `[privacy] scrub` failed: nothing it did not see is passed on."""


class NotEnoughRewards(RatchetError):
    """There are too few rewarded trajectories for a training round."""
