"""The bytes of a table's file as UTF-8: unpacked as a stream, bounded, decoded. Nothing is ever unpacked to disk."""

from __future__ import annotations

import codecs
import dataclasses
import gzip
import io
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from aejax.errors import InputError
from aejax.quality import shown

CHUNK = 1 << 20
TEXT_SUFFIXES = (".csv", ".tsv", ".txt")

# A table of order lines packs to a tenth or so; what unpacks to hundreds of times its size is none.
LARGEST_EXPANSION = 200
ALWAYS_UNPACKED = 256 << 20
LARGEST_UNPACKED = 64 << 30

_MARKS = (  # UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DAMAGED = (zlib.error, EOFError, OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError)


@dataclasses.dataclass(frozen=True)
class Scan:
    """What one pass over the bytes tells.

    Attributes:
      encoding: a Python codec.
      marked: whether a UTF-8 byte order mark stands first.
      quotes: how many `"` there are.
    """

    encoding: str
    marked: bool
    quotes: int


def scan(path: Path, encoding: str | None = None, *, whole: bool = True) -> Scan:
    """Find out how a file is encoded: by its byte order mark, as UTF-8 where every byte fits, else as Windows-1252.

    Args:
      path: the file.
      encoding: what it is said to be; None: find out.
      whole: look at all of it, not at its first piece alone.

    Raises:
      InputError: it is empty or damaged, does not fit the encoding said, is none of these, or holds a NUL.
    """
    if path.stat().st_size == 0:
        raise InputError(f"{path.name} is empty (0 bytes); export it again")
    with _unpacked(path) as content:
        start = content.read(4) or b""
    marked = next((codec for mark, codec in _MARKS if start.startswith(mark)), None)
    candidates = [encoding or marked or "utf-8"]
    if encoding is None and marked is None:
        candidates.append("cp1252")
    for codec in candidates:
        try:
            quotes = _quotes(path, codec, whole)
        except UnicodeError:
            continue
        return Scan(codec, start.startswith(codecs.BOM_UTF8), quotes)
    if encoding is not None or marked not in (None, "utf-8"):
        raise InputError(f"{path.name} is not {encoding or marked}; name its encoding, or save it as UTF-8")
    raise not_utf8(path)


def open_utf8(path: Path, encoding: str) -> io.BufferedReader:
    """The content as UTF-8. A byte order mark of UTF-8 stays.

    Raises:
      InputError: on opening or reading: the archive is damaged, a bomb, or not one table.
    """
    content = _unpacked(path)
    return content if encoding == "utf-8" else io.BufferedReader(_Transcoded(content, encoding), CHUNK)


def chunks(path: Path, encoding: str) -> Iterator[bytes]:
    """The content as UTF-8, a piece at a time."""
    with open_utf8(path, encoding) as content:
        while chunk := content.read(CHUNK):
            yield chunk


def not_utf8(path: Path) -> InputError:
    """The error for the first byte that is not UTF-8."""
    with _unpacked(path) as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as problem:
                return InputError(
                    f"{path.name}:{number}: byte {problem.start + 1} of the line (0x{line[problem.start]:02x}) is not "
                    f"UTF-8; save the file as UTF-8 (in a spreadsheet: CSV UTF-8)"
                )
    return InputError(f"{path.name} is not UTF-8; save the file as UTF-8 (in a spreadsheet: CSV UTF-8)")


def check_expansion(path: Path, unpacked: int) -> None:
    """Check that a file does not unpack to more than a table of its size can.

    Raises:
      InputError: it does.
    """
    allowed = min(max(ALWAYS_UNPACKED, LARGEST_EXPANSION * path.stat().st_size), LARGEST_UNPACKED)
    if unpacked > allowed:
        raise InputError(
            f"{path.name} ({path.stat().st_size:,} bytes) unpacks to more than {allowed:,} bytes, which no table of "
            "its size does; unpack it yourself if you trust it"
        )


def check_members(path: Path, archive: zipfile.ZipFile) -> None:
    """Check every path of an archive, and what all of it would unpack to by its own account.

    Raises:
      InputError: a path leads out of the archive, is a link, or is locked by a password; or it is a bomb.
    """
    for entry in archive.infolist():
        parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
        if entry.filename.startswith(("/", "\\")) or ".." in parts or (parts and parts[0].endswith(":")):
            raise InputError(f"{path.name} holds the path {shown(entry.filename)}, which leads out of it; pack it anew")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise InputError(f"{path.name} holds the link {shown(entry.filename)}; pack the file itself")
        if entry.flag_bits & 1:
            raise InputError(f"{path.name}: {shown(entry.filename)} is locked by a password; pack it without")
    check_expansion(path, sum(entry.file_size for entry in archive.infolist()))


def _quotes(path: Path, codec: str, whole: bool) -> int:
    """How many quotes there are, where all of it (or its first piece) is of this encoding.

    Raises:
      UnicodeError: it is not.
    """
    quotes = 0
    decoder = codecs.getincrementaldecoder("utf-8")()
    within = False
    for chunk in chunks(path, codec):
        if codec == "utf-8" and (within or not chunk.isascii()):
            decoder.decode(chunk)
            within = bool(decoder.getstate()[0])
        if b"\0" in chunk:
            raise _with_nul(path, codec)
        if b'"' in chunk:  # found much faster than counted
            quotes += chunk.count(b'"')
        if not whole:
            return quotes
    decoder.decode(b"", final=True)
    return quotes


def _with_nul(path: Path, codec: str) -> InputError:
    """The error for the first NUL of a file that has one."""
    line = 1
    for chunk in chunks(path, codec):
        before, nul, _ = chunk.partition(b"\0")
        line += before.count(b"\n")
        if nul:
            break
    return InputError(f"{path.name}:{line}: a NUL byte, which no text has; export the file again as UTF-8")


def _unpacked(path: Path) -> io.BufferedReader:
    if path.suffix == ".gz":
        return io.BufferedReader(_Bounded(path, cast(IO[bytes], gzip.open(path))), CHUNK)
    if path.suffix == ".zip":
        try:
            archive = zipfile.ZipFile(path)
        except (*_DAMAGED, ValueError) as problem:
            raise _damaged(path, problem) from None
        try:
            check_members(path, archive)
            content = archive.open(_member(path, archive))
        except (*_DAMAGED, ValueError) as problem:
            archive.close()
            raise problem if isinstance(problem, InputError) else _damaged(path, problem) from None
        return io.BufferedReader(_Bounded(path, content, archive), CHUNK)
    return path.open("rb")


def _member(path: Path, archive: zipfile.ZipFile) -> str:
    """The one table of an archive, or the one that goes by the archive's name."""
    names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    tables = [
        name
        for name in names
        if PurePosixPath(name).suffix.lower() in TEXT_SUFFIXES
        and not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)
    ]
    stem = path.name.split(".")[0].lower()
    named = [name for name in tables if PurePosixPath(name).stem.lower() == stem]
    for found in (named, tables):
        if len(found) == 1:
            return found[0]
    there = ", ".join(shown(name) for name in names[:10]) or "nothing"
    raise InputError(f"{path.name} holds {there}; expected one text file such as {stem}.csv in it")


def _damaged(path: Path, problem: BaseException) -> InputError:
    return InputError(f"{path.name} is damaged or no such archive ({str(problem)[:100]}); export or pack it again")


class _Bounded(io.RawIOBase):
    """What is unpacked, counted as it comes: an archive's own account of its size may lie."""

    def __init__(self, path: Path, content: IO[bytes], archive: zipfile.ZipFile | None = None):
        self._path, self._content, self._archive, self._count = path, content, archive, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            data = self._content.read(len(buffer))
        except _DAMAGED as problem:
            raise _damaged(self._path, problem) from None
        self._count += len(data)
        check_expansion(self._path, self._count)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._content.close()
            if self._archive is not None:
                self._archive.close()
        super().close()


class _Transcoded(io.RawIOBase):
    """Any encoding as UTF-8."""

    def __init__(self, content: io.BufferedReader, encoding: str):
        self._content = content
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._ready = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        while not self._ready and not self._ended:
            data = self._content.read(CHUNK // 4)
            self._ended = not data
            self._ready = self._decoder.decode(data, final=self._ended).encode()
        data, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._content.close()
        super().close()
