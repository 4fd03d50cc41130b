"""Unpacking: stored transitions put together again from what they refer to."""

from collections.abc import Mapping, Sequence
from itertools import chain

from trajectories.errors import RecordError
from trajectories.model import Transition
from trajectories.store.contents import Contents, message_name
from trajectories.store.packed import Packed, Resolved, put_together, resolve
from trajectories.store.packer import split_frames
from trajectories.store.packing import unpack
from trajectories.store.refs import TrajectoryRef
from trajectories.store.tokens import NOTHING, unpack_tokens

Stored = Mapping[bytes, bytes]  # packed id -> packed transition


class Unpacking(Contents):
    """Reads packed transitions, with one round trip for the contents of all of them."""

    def unpack(self, all_stored: Sequence[tuple[TrajectoryRef, Stored]]) -> list[list[Transition]]:
        """The transitions of each trajectory, by time.

        Raises RecordError that names the transition whose parts are broken or gone.
        """
        resolved = [(ref, self._resolve_all(ref, stored)) for ref, stored in all_stored]
        contents = {}
        for tenant in dict.fromkeys(ref.tenant for ref, _ in resolved):
            own = (found.values() for ref, found in resolved if ref.tenant == tenant)
            digests = (entry.digests() for entry in chain.from_iterable(own))
            contents[tenant] = self.read_contents(tenant, chain.from_iterable(digests))
        return [_put_all(ref, found, contents[ref.tenant]) for ref, found in resolved]

    def _resolve_all(self, ref: TrajectoryRef, stored: Stored) -> dict[bytes, Resolved]:
        """Every transition on its base, which is another one of the same trajectory."""
        done: dict[bytes, Resolved] = {}
        for name in stored:
            line: dict[bytes, Packed] = {}
            while name and name not in done:
                if name not in stored or name in line:
                    raise RecordError(f"a transition of {ref} goes on with one that is not there")
                line[name] = Packed.parse(stored[name])
                name = line[name].base
            for own, packed in reversed(line.items()):
                done[own] = self._resolve(ref.tenant, packed, done.get(packed.base))
        return done

    def _resolve(self, tenant: str, packed: Packed, base: Resolved | None) -> Resolved:
        layout, numbers = split_frames(packed)
        tokens = None
        if numbers:
            before = (base.tokens if base else NOTHING).context
            tokens = unpack_tokens(self.compression.decompress(tenant, numbers), before)
        return resolve(self.compression.decompress(tenant, layout), tokens, packed.digests, base)


def _put_all(
    ref: TrajectoryRef, found: Mapping[bytes, Resolved], contents: Mapping[bytes, object]
) -> list[Transition]:
    transitions = []
    for name, resolved in found.items():
        id = unpack(name)
        try:
            transitions.append(
                put_together(resolved, contents, tenant=ref.tenant, trajectory=ref.id, id=id)
            )
        except KeyError as error:
            (digest,) = error.args
            gone = message_name(digest) if isinstance(digest, bytes) else digest
            raise RecordError(f"transition {id} of {ref} lacks its content {gone}") from error
    return sorted(transitions, key=lambda entry: (entry.started_at, entry.id))
