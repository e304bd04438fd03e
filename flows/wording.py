"""Figures as people read them: a unit that fits, no more digits than are known, and text that cannot disguise itself.

Pure; what is None reads as a dash.
"""

from __future__ import annotations

import unicodedata
from datetime import datetime

UNKNOWN = "\N{EN DASH}"
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that make text read in another order than it stands in."""
_THOUSANDS = ("", "k", "M", "G", "T", "P", "E", "Z")


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share of 1 in percent; never 100 or 0 by rounding alone."""
    if share is None:
        return UNKNOWN
    text = f"{100 * share:.{digits}f}"
    if share < 1 and float(text) == 100:
        return f"> {100 - 10**-digits:.{digits}f}\N{NO-BREAK SPACE}%"
    if share > 0 and float(text) == 0:
        return f"< {10**-digits:.{digits}f}\N{NO-BREAK SPACE}%"
    return f"{text}\N{NO-BREAK SPACE}%"


def probability(share: float | None) -> str:
    """Return a probability with two digits; never 1 or 0 by rounding alone."""
    if share is None:
        return UNKNOWN
    if 0.995 <= share < 1:
        return "> 0.99"
    return "< 0.01" if 0 < share < 0.005 else f"{share:.2f}"


def flops(operations: float | None) -> str:
    """Return a number of FLOPs."""
    return UNKNOWN if operations is None else f"{_scaled(operations)}FLOPs"


def size(size_bytes: float | None) -> str:
    """Return a number of bytes."""
    return UNKNOWN if size_bytes is None else f"{_scaled(size_bytes)}B"


def seconds(duration_seconds: float | None) -> str:
    """Return a span of time in seconds, minutes, hours or days."""
    if duration_seconds is None:
        return UNKNOWN
    for unit, unit_seconds in (("d", 86400), ("h", 3600), ("min", 60)):
        if duration_seconds >= 2 * unit_seconds:
            return f"{duration_seconds / unit_seconds:.1f} {unit}"
    return (
        f"{duration_seconds:.1f} s" if duration_seconds >= 0.1 or not duration_seconds else f"{duration_seconds:.2g} s"
    )


def usd(price_usd: float | None) -> str:
    """Return a price in US dollars, with as many digits as tell it from nothing."""
    if price_usd is None:
        return UNKNOWN
    return f"${price_usd:,.2f}" if price_usd >= 1 or not price_usd else f"${price_usd:#.2g}"


def count(number: int | None) -> str:
    """Return a number with its thousands apart."""
    return UNKNOWN if number is None else f"{number:,}"


def videos(number: int) -> str:
    """Return a number of videos, in words that agree with it."""
    return "1 video" if number == 1 else f"{count(number)} videos"


def clips(number: int) -> str:
    """Return a number of clips, in words that agree with it."""
    return "1 clip" if number == 1 else f"{count(number)} clips"


def moment(at: datetime | None) -> str:
    """Return a moment to the minute."""
    return UNKNOWN if at is None else at.strftime("%Y-%m-%d %H:%M UTC")


def plain_text(text: str) -> str:
    """Return text with what cannot be seen, or turns the order of reading, written out: a name of any bytes stays a name."""
    if text.isprintable() and not _BIDI.intersection(text):
        return text
    return "".join(_written_out(character) for character in text)


def _scaled(number: float) -> str:
    """Return a number with three digits and the prefix of a thousand's power, up to the unit."""
    power = 0
    while abs(number) >= 999.5 and power < len(_THOUSANDS) - 1:
        number /= 1000
        power += 1
    digits = 0 if not power and number == int(number) else 2 if abs(number) < 10 else 1 if abs(number) < 100 else 0
    return f"{number:.{digits}f} {_THOUSANDS[power]}"


def _written_out(character: str) -> str:
    if character in _BIDI or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
        return character.encode("unicode_escape").decode()
    return character
