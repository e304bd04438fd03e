"""Of an AV1 temporal unit that nobody wants to see, the part that must be decoded nevertheless.

A unit ends with the one frame that it shows; hidden frames, which later ones refer to, may come before it. Where the shown
frame is kept in none of the eight slots that frames are predicted from, nothing after it can tell whether it was decoded.
Whatever is not understood is needed. Bytes in, a number out: this module knows nothing of containers and decoders.

Sections are those of the AV1 Bitstream & Decoding Process Specification, version 1.0.0 with errata 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

# obu_type, 6.2.2
SEQUENCE_HEADER = 1
TEMPORAL_DELIMITER = 2
FRAME_HEADER = 3
TILE_GROUP = 4
FRAME = 6
REDUNDANT_FRAME_HEADER = 7
PADDING = 15

# frame_type, 6.8.2
KEY_FRAME = 0
INTER_FRAME = 1
SWITCH_FRAME = 3

CHOSEN_BY_FRAME = 2
"""SELECT_SCREEN_CONTENT_TOOLS and SELECT_INTEGER_MV, section 3."""
RECORD_MARKER = 0x81
"""First byte of the record ``av1C``, in which containers keep OBUs after ``RECORD_BYTES``: AV1 Codec ISO Media File Format
Binding, 2.3. No OBU starts with it: its first bit would be obu_forbidden_bit (5.3.2)."""
RECORD_BYTES = 4
MOST_LEB128_BYTES = 8
LARGEST_OBU = 2**32 - 1
"""Bytes, 4.10.5."""
HEAD_BYTES = 4
"""Up to refresh_frame_flags a frame's header takes at most 28 bits, in the sequences that are understood here (5.9.2)."""


class Av1Thinner:
    """Tells which bytes of a unit that nobody wants to see must be decoded.

    It has to be told of every unit that is decoded, in their order: by either method.

    Args:
        extradata: what the container keeps for the decoder; may be empty.
    """

    def __init__(self, extradata: bytes) -> None:
        self._sequence: _Sequence | None = None
        """The latest one; None if it is not understood."""
        self.learn(extradata[RECORD_BYTES:] if extradata[:1] == bytes([RECORD_MARKER]) else extradata)

    def learn(self, unit: bytes | memoryview) -> None:
        """Take note of what a unit that is decoded as it is says of those after it."""
        try:
            for kind, _, payload, end in _split(unit):
                if kind == SEQUENCE_HEADER:
                    self._sequence = _read_sequence(bytes(unit[payload:end]))
        except _NotUnderstood:
            self._sequence = None

    def count_needed_bytes(self, unit: bytes | memoryview) -> int:
        """Return how many bytes must be decoded of a unit that nobody wants to see: its first ones, or none."""
        self.learn(unit)
        if self._sequence is None:
            return len(unit)
        try:
            return _find_cut(unit, self._sequence)
        except _NotUnderstood:
            return len(unit)


class _NotUnderstood(Exception):
    """What is damaged, or makes use of what is not known here."""


class _Use(Enum):
    LATER = auto()
    """A frame that is not shown."""
    BOTH = auto()
    """One that is shown, and may change what later ones are predicted from."""
    SHOW = auto()
    """One that is shown and leaves nothing behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sequence:
    """What is needed of a sequence header (5.5.1) to read a frame's."""

    screen_content_tools: int
    integer_mv: int
    order_hint_bits: int


def _find_cut(unit: bytes | memoryview, sequence: _Sequence) -> int:
    """Return where the last frame begins if it is only there to be shown, the unit's length otherwise."""
    use: _Use | None = None
    is_first = has_tiles = True
    cut = 0
    for kind, start, payload, end in _split(unit):
        if kind in (FRAME, FRAME_HEADER):
            # Nothing follows the shown frame of a unit without layers (7.5), and a frame's tiles follow its header (5.9.1).
            if use not in (None, _Use.LATER) or not has_tiles:
                return len(unit)
            is_first = use is None
            use = _read_use(unit, payload, end, sequence)
            cut = start
            has_tiles = kind == FRAME
        elif kind == TILE_GROUP and use is not None:
            has_tiles = True
        elif kind not in (TEMPORAL_DELIMITER, REDUNDANT_FRAME_HEADER, PADDING):
            # Metadata (5.8.1) may hold for later frames too, a sequence header does; the rest is reserved or unusual.
            return len(unit)
    if use is not _Use.SHOW or not has_tiles:
        return len(unit)
    return 0 if is_first else cut


def _split(unit: bytes | memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Yield the type of each OBU and where it, its payload and what follows it begin (5.3.1)."""
    position, length = 0, len(unit)
    while position < length:
        start, first = position, unit[position]
        position += 1
        # Set in no stream of today, or where there are layers: obu_forbidden_bit, obu_extension_flag, obu_reserved_1bit (5.3.2).
        if first & 0b1000_0101:
            raise _NotUnderstood
        if first & 0b10:
            size, position = _read_leb128(unit, position)
        else:
            # Allowed by containers for the last one.
            size = length - position
        end = position + size
        if end > length:
            raise _NotUnderstood
        yield first >> 3, start, position, end
        position = end


def _read_leb128(unit: bytes | memoryview, position: int) -> tuple[int, int]:
    """Return a number stored as in 4.10.5, and where the next byte lies."""
    value = 0
    for index, byte in enumerate(unit[position : position + MOST_LEB128_BYTES]):
        value |= (byte & 0x7F) << 7 * index
        if not byte & 0x80:
            if value > LARGEST_OBU:
                break
            return value, position + index + 1
    raise _NotUnderstood


def _read_use(unit: bytes | memoryview, payload: int, end: int, sequence: _Sequence) -> _Use:
    """Read a frame's header up to refresh_frame_flags (5.9.2)."""
    if payload < end and unit[payload] & 0x80:
        # show_existing_frame takes no decoding, and fills all slots if it shows a keyframe.
        return _Use.BOTH
    if end - payload < HEAD_BYTES:
        raise _NotUnderstood
    head = int.from_bytes(unit[payload : payload + HEAD_BYTES], "big")
    frame_type, is_shown, is_error_resilient = head >> 29, head >> 28 & 1, head >> 27 & 1
    if not is_shown:
        return _Use.LATER
    # A shown keyframe and a switch frame fill all slots; with error resilience comes ref_order_hint, which may empty some.
    if frame_type in (KEY_FRAME, SWITCH_FRAME) or is_error_resilient:
        return _Use.BOTH
    # So many bits are left after disable_cdf_update; the next ones are allow_screen_content_tools and force_integer_mv.
    bits_left = 26
    tools = sequence.screen_content_tools
    if tools == CHOSEN_BY_FRAME:
        bits_left -= 1
        tools = head >> bits_left & 1
    if tools and sequence.integer_mv == CHOSEN_BY_FRAME:
        bits_left -= 1
    # frame_size_override_flag, order_hint, and primary_ref_frame.
    bits_left -= 1 + sequence.order_hint_bits + (3 if frame_type == INTER_FRAME else 0)
    refresh_frame_flags = head >> bits_left - 8 & 0xFF
    return _Use.BOTH if refresh_frame_flags else _Use.SHOW


def _read_sequence(payload: bytes) -> _Sequence:
    """Read a sequence header up to order_hint_bits_minus_1 (5.5.1)."""
    bits = _Bits(payload)
    bits.skip(3 + 1)
    bits.refuse("reduced_still_picture_header")
    if bits.read(1):
        _skip_timing(bits)
        bits.refuse("decoder_model_info_present_flag")
    has_display_delay = bits.read(1)
    # More than one operating point, or one that is a choice of layers: the decoder then leaves out frames itself (5.3.1).
    bits.refuse("operating_points_cnt_minus_1", 5)
    bits.refuse("operating_point_idc", 12)
    if bits.read(5) > 7:
        bits.skip(1)
    if has_display_delay and bits.read(1):
        bits.skip(4)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    bits.skip(width_bits + height_bits)
    bits.refuse("frame_id_numbers_present_flag")
    # Superblocks, two tools of intra and four of inter prediction.
    bits.skip(3 + 4)
    has_order_hint = bits.read(1)
    if has_order_hint:
        bits.skip(2)
    screen_content_tools = CHOSEN_BY_FRAME if bits.read(1) else bits.read(1)
    integer_mv = CHOSEN_BY_FRAME
    if screen_content_tools and not bits.read(1):
        integer_mv = bits.read(1)
    return _Sequence(
        screen_content_tools=screen_content_tools,
        integer_mv=integer_mv,
        order_hint_bits=bits.read(3) + 1 if has_order_hint else 0,
    )


def _skip_timing(bits: _Bits) -> None:
    """Pass over timing_info (5.5.3), which ends with a number stored as in 4.10.3."""
    bits.skip(32 + 32)
    if bits.read(1):
        zeros = 0
        while not bits.read(1):
            zeros += 1
        if zeros < 32:
            bits.skip(zeros)


class _Bits:
    """Reads bits, the most significant one of each byte first (4.10.2)."""

    def __init__(self, content: bytes) -> None:
        self._value = int.from_bytes(content, "big")
        self._left = 8 * len(content)

    def read(self, count: int) -> int:
        self.skip(count)
        return self._value >> self._left & (1 << count) - 1

    def skip(self, count: int) -> None:
        if count > self._left:
            raise _NotUnderstood
        self._left -= count

    def refuse(self, name: str, count: int = 1) -> None:
        """Raise unless the field is zero."""
        if self.read(count):
            raise _NotUnderstood(name)
