"""Names of places: plain absolute paths for what is on disk, URLs for everything else.

A path whose bytes are not UTF-8 cannot be a column of a table; such a path, and only such a path, is written as a
percent-encoded ``file://`` URL. ``local_path`` turns both forms back into what the operating system knows.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from urllib.parse import quote_from_bytes, unquote_to_bytes

from cdmodel.errors import UsageError

FILE_SCHEME = "file"
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<path>.*)", re.DOTALL)
_CHAINED = re.compile(r"[A-Za-z0-9+.-]+::[A-Za-z]")


def absolute_uri(uri: str) -> str:
    """Return the one name of a place: an absolute plain path, or the URL without a trailing slash.

    Symbolic links are not resolved. ``file://`` URLs become plain paths, percent-decoded as RFC 8089 says.

    Raises:
        UsageError: an empty name, or a chain of protocols (``simplecache::s3://``).
    """
    refuse_chained(uri)
    if is_local(uri):
        return os.path.abspath(os.path.expanduser(local_path(uri)))  # noqa: PTH100, PTH111 - a string, ``//`` and all
    scheme, path = split_url(uri)
    return f"{scheme.lower()}://{path.rstrip('/')}"


def refuse_chained(uri: str) -> None:
    """Refuse what is no plain name of one place.

    Raises:
        UsageError: the name is empty or chains protocols.
    """
    if not uri.strip():
        raise UsageError(repr(uri), "an empty name; give a folder or a URL")
    if "://" in uri and _CHAINED.match(uri):
        raise UsageError(uri, "chained URLs (::) are not supported; give a plain path or URL")


def is_local(uri: str) -> bool:
    """Tell whether the name means something on this machine's file systems."""
    match = _URL.fullmatch(uri)
    return match is None or match["scheme"].lower() in (FILE_SCHEME, "local")


def split_url(uri: str) -> tuple[str, str]:
    """Return scheme and the rest of a URL; a plain path has the scheme ``file``."""
    match = _URL.fullmatch(uri)
    return (FILE_SCHEME, uri) if match is None else (match["scheme"], match["path"])


def local_path(uri: str) -> str:
    """Return the path behind a local name, for the operating system."""
    match = _URL.fullmatch(uri)
    if match is None:
        return uri
    path = match["path"].removeprefix("localhost")
    return os.fsdecode(unquote_to_bytes(path.encode("utf-8", "surrogateescape")))


def storable_uri(path: str) -> str:
    """Return a local path as text that any table can hold; ``local_path`` is the way back."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return f"{FILE_SCHEME}://{quote_from_bytes(os.fsencode(path))}"
    return path


def video_id_of(uri: str) -> str:
    """Return the id of a video that nobody named: 20 hex digits of the hash of its absolute URI."""
    return hashlib.sha256(uri.encode()).hexdigest()[:20]


def join_uri(folder: str, name: str) -> str:
    """Return the name of something below ``folder``."""
    return f"{folder.rstrip('/')}/{name}"


def name_below(uri: str, folder: str) -> str:
    """Return what ``join_uri`` would need to name ``uri`` again; ``folder`` is absolute, ``uri`` lies below it."""
    path = local_path(uri) if is_local(uri) else uri
    return path[len(folder) :].lstrip("/")


def parent_uri(uri: str) -> str:
    """Return the folder that a name lies in."""
    return posixpath.dirname(uri) or "/"


def base_name(uri: str) -> str:
    """Return the last part of a name."""
    return posixpath.basename(uri)


def lies_inside(uri: str, folder: str) -> bool:
    """Tell whether an absolute name lies below ``folder``, also absolute. ``..`` in a URL is never inside."""
    prefix = folder if folder.endswith("/") else folder + "/"
    return uri.startswith(prefix) and ".." not in uri.split("/")


def root_of(uri: str) -> str:
    """Return the largest place that a URI lies in: the root of the disk, or its bucket."""
    protocol, path = split_url(uri)
    return "/" if is_local(uri) else f"{protocol}://{path.lstrip('/').partition('/')[0]}"
