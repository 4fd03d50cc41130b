"""Where the archive lies: a directory, or anything that fsspec reaches.

Names are relative to its root. On a disk a file appears by a rename, after an
fsync; in an object store an upload is atomic by itself, and is checked after.
"""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from trajectories.errors import ArchiveError, RatchetError, SettingsError

CHUNK_BYTES = 1 << 20
DRAFTS = ".drafts"
P = ParamSpec("P")
R = TypeVar("R")


def fails_as_os_error(step: Callable[P, R]) -> Callable[P, R]:
    """What a file system's library raises (botocore's errors are no OSErrors) as an OSError.

    It has a number, by which a file that is damaged is told from one that cannot be read.
    """

    @wraps(step)
    def guarded(*args: P.args, **options: P.kwargs) -> R:
        try:
            return step(*args, **options)
        except (RatchetError, FileNotFoundError):
            raise
        except OSError as error:
            if error.errno is None:
                raise _unreachable(error) from error
            raise
        except Exception as error:  # there are as many kinds as libraries
            raise _unreachable(error) from error

    return guarded


def _unreachable(error: Exception) -> OSError:
    said = " ".join(str(error).split())
    return OSError(errno.EIO, f"the archive cannot be reached: {type(error).__name__}: {said}")


class Place:
    """The files of one archive. Raises OSError, whatever its file system does."""

    @fails_as_os_error
    def __init__(self, url: str, **options: Any) -> None:
        """Raises SettingsError when the URL's file system is not installed."""
        from fsspec.core import url_to_fs

        try:
            # A listing that is remembered does not show what another process wrote.
            self._fs, root = url_to_fs(url, use_listings_cache=False, **options)
        except (ImportError, ValueError) as error:
            raise SettingsError(
                f"archive.url is {url}: {error}. Install what reaches it:"
                " `pip install 'ratchet-gateway[s3]'` (or gcs, azure)"
            ) from error
        self.url = url
        self.root: str = root.rstrip("/")
        self.is_local = "file" in (
            (self._fs.protocol,) if isinstance(self._fs.protocol, str) else self._fs.protocol
        )

    @fails_as_os_error
    def find(self, suffix: str) -> dict[str, str]:
        """Files whose names end so, with a mark that changes when the file does."""
        self._fs.invalidate_cache()
        try:
            found = self._fs.find(self.root, detail=True)
        except FileNotFoundError:
            return {}
        return {
            self._relative(path): _mark(about)
            for path, about in found.items()
            if path.endswith(suffix) and f"/{DRAFTS}/" not in path
        }

    @fails_as_os_error
    def age_seconds(self, name: str, now: float) -> float:
        """How long ago a file was written; 0 when its file system does not say."""
        try:
            return now - float(self._fs.modified(self._path(name)).timestamp())
        except (NotImplementedError, FileNotFoundError):
            return 0.0

    @fails_as_os_error
    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """A file, or a part of it."""
        found: bytes = self._fs.cat_file(self._path(name), start=start, end=end)
        return found

    @fails_as_os_error
    def open(self, name: str) -> Any:
        """A file to read from, wherever one likes."""
        file = self._fs.open(self._path(name), "rb", block_size=4 << 20)
        return file if self.is_local else _RemoteFile(file)

    @fails_as_os_error
    def size(self, name: str) -> int:
        """In bytes."""
        return int(self._fs.size(self._path(name)))

    def drafts(self, owner: str) -> Path:
        """A directory on a disk for files that are not whole yet; of `owner`, and empty."""
        if self.is_local:
            directory = Path(self.root) / DRAFTS / owner
        else:
            directory = Path(tempfile.gettempdir()) / f"ratchet-archive-{os.getuid()}" / owner
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True, mode=0o700)
        return directory

    @fails_as_os_error
    def put(self, draft: Path, name: str, sha256: str) -> None:
        """Make a draft the file `name`, durably, and be sure of it.

        Raises ArchiveError when what arrived is not what was sent.
        """
        if self.is_local:
            _sync(draft)
            target = Path(self._path(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            draft.replace(target)
            _sync_up(target.parent, Path(self.root))
            return
        size = draft.stat().st_size
        self._fs.put_file(str(draft), self._path(name))
        self._fs.invalidate_cache()
        if self.size(name) != size or self.sha256(name) != sha256:
            raise ArchiveError(f"{name} arrived otherwise than it was sent to {self.url}")
        draft.unlink()

    @fails_as_os_error
    def write(self, name: str, content: bytes) -> None:
        """Write a small file; a reader sees all of the old or all of the new."""
        path = self._path(name)
        if not self.is_local:
            self._fs.pipe_file(path, content)
            self._fs.invalidate_cache()
            if self.read(name) != content:
                raise ArchiveError(f"{name} arrived otherwise than it was sent to {self.url}")
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.new")
        try:
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(target)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        _sync_up(target.parent, Path(self.root))

    @fails_as_os_error
    def delete(self, name: str) -> None:
        """Delete a file; it may be gone already."""
        with suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))
        if self.is_local:  # and the directories that are empty now
            directory = Path(self._path(name)).parent
            with suppress(OSError):
                while directory != Path(self.root):
                    directory.rmdir()
                    directory = directory.parent

    def sha256(self, name: str) -> str:
        """The SHA-256 of a file, in hex."""
        digest = hashlib.sha256()
        with self.open(name) as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _relative(self, path: str) -> str:
        return path[len(self.root) + 1 :]


class _RemoteFile:
    """A file of the file system's library, whose methods fail as the place's do."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __enter__(self) -> "_RemoteFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._file, name)
        return fails_as_os_error(found) if callable(found) else found


def _mark(about: dict[str, Any]) -> str:
    parts = (about.get(name) for name in ("size", "mtime", "ino", "ETag", "etag", "LastModified"))
    return "|".join(str(part) for part in parts)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_up(directory: Path, root: Path) -> None:
    """Force the names in a directory, and its own up to the root, to the disk."""
    while True:
        _sync(directory)
        if directory == root or root not in directory.parents:
            return
        directory = directory.parent
