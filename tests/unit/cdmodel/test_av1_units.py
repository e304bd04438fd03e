from __future__ import annotations

import io
import random
from dataclasses import dataclass
from functools import cache

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdmodel.av1_units import (
    FRAME,
    FRAME_HEADER,
    PADDING,
    REDUNDANT_FRAME_HEADER,
    SEQUENCE_HEADER,
    TEMPORAL_DELIMITER,
    TILE_GROUP,
    Av1Thinner,
)
from cdmodel.decode_limits import DecodeLimits
from cdmodel.decode_survey import DecodeTally, StreamSurvey
from cdmodel.picture_decoder import PictureDecoder

FRAMES = 40
OPTIONS = {"preset": "11", "g": "20", "crf": "40"}
METADATA, TILE_LIST, RESERVED = 5, 8, 9
ENCODINGS: dict[str, dict[str, str]] = {
    "default": {},
    "slower preset": {"preset": "7"},
    "two levels": {"params": "hierarchical-levels=2"},
    "five levels": {"params": "hierarchical-levels=5"},
    "low delay": {"params": "pred-struct=1"},
    "low delay and rate control": {"params": "pred-struct=1:rc=2:tbr=100"},
    "ten bits": {"pix_fmt": "yuv420p10le"},
    "film grain": {"params": "film-grain=20"},
    "tiles": {"params": "tile-columns=1:tile-rows=1", "size": "256x128"},
    "hidden keyframes": {"params": "irefresh-type=1"},
    "overlays": {"params": "enable-overlays=1"},
    "switch frames": {"params": "pred-struct=1:sframe-dist=8:sframe-mode=1"},
    "screen content": {"params": "scm=1"},
    "super-resolution": {"params": "superres-mode=1:superres-denom=12"},
    "references of other sizes": {"params": "resize-mode=1:resize-denom=12"},
    "light levels": {"params": "content-light=1000,400"},
    "matroska": {"container": "matroska"},
}


@dataclass(frozen=True, slots=True)
class _Tag:
    """What a packet carries to its frame."""

    stamp: int


@cache
def _video(name: str) -> bytes:
    """Return a video of a texture that moves."""
    encoding = dict(ENCODINGS[name])
    width, height = map(int, encoding.pop("size", "96x64").split("x"))
    texture = np.random.default_rng(0).integers(0, 256, (height + FRAMES, width + 2 * FRAMES, 3), dtype=np.uint8)
    params = "lp=1:" + encoding.pop("params", "enable-tf=1")
    pix_fmt = encoding.pop("pix_fmt", "yuv420p")
    sink = io.BytesIO()
    with av.open(sink, mode="w", format=encoding.pop("container", "mp4")) as container:
        stream = container.add_stream("libsvtav1", rate=10, options=OPTIONS | encoding | {"svtav1-params": params})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        for number in range(FRAMES):
            pixels_HWC = np.ascontiguousarray(texture[number : number + height, 2 * number : 2 * number + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels_HWC, format="rgb24")))
        container.mux(stream.encode(None))
    return sink.getvalue()


def _decode(content: bytes, wanted: set[int] | None = None) -> tuple[list[tuple[int, bytes]], DecodeTally]:
    """Return stamps and pixels of the wanted frames, or of all, in the order they come in."""
    tally = DecodeTally()
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        decoder = PictureDecoder("test:video", stream.codec_context, DecodeLimits(), StreamSurvey(), tally)
        frames = []
        for packet in container.demux(stream):
            if packet.size:
                packet.opaque = _Tag(packet.pts)
                frames.extend(decoder.decode(packet, is_wanted=wanted is None or packet.pts in wanted))
        frames.extend(decoder.drain())
        assert not decoder.has_met_damage
        assert [frame.opaque.stamp for frame in frames] == [frame.pts for frame in frames]
        shown = [(frame.pts, _pixels(frame)) for frame in frames]
    return [frame for frame in shown if wanted is None or frame[0] in wanted], tally


def _pixels(frame: av.VideoFrame) -> bytes:
    """Return the rows of all planes without what lies between them; a height of the planes may be odd."""
    bytes_per_value = 2 if "10" in frame.format.name else 1
    rows = [
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width * bytes_per_value]
        for plane in frame.planes
    ]
    return b"".join(row.tobytes() for row in rows)


def _units(content: bytes) -> tuple[bytes, list[bytes]]:
    """Return the extradata, and what is in the packets of all but keyframes."""
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.video[0]
        units = [bytes(packet) for packet in container.demux(stream) if packet.size and not packet.is_keyframe]
        return bytes(stream.codec_context.extradata), units


def _needed(thinner: Av1Thinner, units: list[bytes]) -> list[int]:
    return [thinner.count_needed_bytes(unit) for unit in units]


def _bits(*fields: tuple[int, int]) -> bytes:
    """Return fields, each a value and its bits, and zeros up to a length that any header is read from."""
    text = "".join(f"{value:0{count}b}" for value, count in fields)
    return int(text.ljust(200, "0"), 2).to_bytes(25, "big")


def _obu(kind: int, payload: bytes = b"", *, has_size: bool = True, flags: int = 0) -> bytes:
    size = bytes([0x80 | len(payload) & 0x7F, len(payload) >> 7]) if has_size else b""
    return bytes([kind << 3 | 2 * has_size | flags]) + size + payload


def _sequence(**others: int) -> bytes:
    """Return a sequence header OBU whose frames choose their tools, and have order hints of 7 bits."""
    names = {"reduced": 1, "timing": 1, "display_delay": 1, "more_points": 5, "layers": 12}
    first = [(0, 3), (0, 1)] + [(others.get(name, 0), count) for name, count in names.items()]
    size = [(8, 5), (0, 1), (6, 4), (5, 4), (95, 7), (63, 6)]
    tools = [(others.get("frame_ids", 0), 1), (0, 7), (1, 1), (0, 2), (1, 1), (1, 1), (6, 3)]
    return _obu(SEQUENCE_HEADER, _bits(*first, *size, *tools))


def _timed_sequence(*, decoder_model: int) -> bytes:
    timing = [(1, 32), (30, 32), (1, 1), (0b00101, 5), (decoder_model, 1)]
    size = [(0, 1), (0, 5), (0, 12), (8, 5), (0, 1), (6, 4), (5, 4), (95, 7), (63, 6)]
    tools = [(0, 1), (0, 7), (1, 1), (0, 2), (1, 1), (1, 1), (6, 3)]
    return _obu(SEQUENCE_HEADER, _bits((0, 5), (1, 1), *timing, *size, *tools))


def _frame(*, kind: int = FRAME, frame_type: int = 1, shown: int = 1, resilient: int = 0, slots: int = 0) -> bytes:
    """Return the OBU of a frame of such a sequence, with screen content tools and motion vectors of its choice."""
    head = [(0, 1), (frame_type, 2), (shown, 1)] + [(0, 1)] * (1 - shown) + [(resilient, 1)]
    middle = [(0, 1), (1, 1), (0, 1), (0, 1), (127, 7)] + [(7, 3)] * (frame_type == 1 and not resilient)
    return _obu(kind, _bits(*head, *middle, (slots, 8)))


SHOWN = _frame()
HIDDEN = _frame(shown=0, slots=4)
SHOWS_EXISTING = _obu(FRAME_HEADER, b"\x80")


@pytest.mark.parametrize("name", ENCODINGS)
def test_wanted_frames_are_to_the_bit_those_of_a_full_decode(name):
    everything, full = _decode(_video(name))
    assert len(everything) == full.frames_decoded == FRAMES
    stamps = [stamp for stamp, _ in everything]
    draw = random.Random(name)
    for share in (0, 0.1, 0.5, 0.9):
        wanted = {stamp for stamp in stamps if draw.random() < share}
        frames, tally = _decode(_video(name), wanted)
        assert frames == [frame for frame in everything if frame[0] in wanted]
        assert tally.frames_decoded < FRAMES or share > 0.5


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_quarter_of_the_units_and_more_is_thinned_whatever_the_encoding(name):
    extradata, units = _units(_video(name))
    needed = _needed(Av1Thinner(extradata), units)
    assert sum(count < len(unit) for count, unit in zip(needed, units, strict=True)) > FRAMES // 4


def test_units_with_hidden_frames_are_cut_and_others_left_out():
    extradata, units = _units(_video("default"))
    needed = _needed(Av1Thinner(extradata), units)
    assert 0 in needed
    assert any(0 < count < len(unit) for count, unit in zip(needed, units, strict=True))
    assert any(count == len(unit) for count, unit in zip(needed, units, strict=True))


def test_what_a_unit_is_cut_to_is_needed_whole():
    extradata, units = _units(_video("default"))
    thinner = Av1Thinner(extradata)
    cut = [unit[: thinner.count_needed_bytes(unit)] for unit in units]
    assert _needed(thinner, cut) == [len(unit) for unit in cut]


def test_a_unit_whose_end_is_missing_is_needed_whole():
    extradata, units = _units(_video("default"))
    thinner = Av1Thinner(extradata)
    for unit in units:
        for length in {*range(min(len(unit), 40)), *range(0, len(unit), 7), len(unit) - 1}:
            thinner.learn(_sequence())
            assert thinner.count_needed_bytes(unit[:length]) == length


@settings(max_examples=300, deadline=None)
@given(extradata=st.binary(max_size=40), units=st.lists(st.binary(max_size=60), max_size=4))
def test_random_bytes_raise_nothing(extradata, units):
    for thinner in (Av1Thinner(extradata), Av1Thinner(_sequence())):
        for unit in units:
            assert 0 <= thinner.count_needed_bytes(unit) <= len(unit)
            thinner.learn(unit)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_units_with_changed_bytes_raise_nothing(data):
    extradata, units = _units(_video("default"))
    thinner = Av1Thinner(extradata)
    unit = bytearray(data.draw(st.sampled_from(units)))
    for position in data.draw(st.lists(st.integers(0, min(len(unit), 30) - 1), max_size=3)):
        unit[position] = data.draw(st.integers(0, 255))
    assert 0 <= thinner.count_needed_bytes(bytes(unit)) <= len(unit)


def test_without_a_sequence_header_everything_is_needed():
    _, units = _units(_video("default"))
    assert _needed(Av1Thinner(b""), units) == [len(unit) for unit in units]


def test_a_sequence_header_among_the_units_is_learned():
    extradata, units = _units(_video("default"))
    thinner = Av1Thinner(b"")
    thinner.learn(_sequence())
    assert _needed(thinner, units) == _needed(Av1Thinner(extradata), units)


def test_extradata_may_be_plain_units():
    extradata, units = _units(_video("default"))
    assert _needed(Av1Thinner(extradata[4:]), units) == _needed(Av1Thinner(extradata), units)


def test_timing_of_a_sequence_is_passed_over():
    assert Av1Thinner(_timed_sequence(decoder_model=0)).count_needed_bytes(SHOWN) == 0


@pytest.mark.parametrize(
    "sequence",
    [
        _sequence(reduced=1),
        _sequence(more_points=1),
        _sequence(layers=0x101),
        _sequence(frame_ids=1),
        _timed_sequence(decoder_model=1),
        _obu(SEQUENCE_HEADER, _sequence()[3:9]),
        _sequence()[:-1],
    ],
    ids=["still picture", "operating points", "layers", "frame numbers", "decoder model", "too short", "cut off"],
)
def test_after_a_sequence_header_that_is_not_understood_everything_is_needed_until_the_next(sequence):
    thinner = Av1Thinner(_sequence())
    thinner.learn(sequence)
    assert thinner.count_needed_bytes(SHOWN) == len(SHOWN)
    thinner.learn(_sequence())
    assert thinner.count_needed_bytes(SHOWN) == 0


@pytest.mark.parametrize(
    ("unit", "needed"),
    [
        (SHOWN, b""),
        (_obu(TEMPORAL_DELIMITER) + SHOWN + _obu(PADDING, b"\x80"), b""),
        (HIDDEN + SHOWN, HIDDEN),
        (HIDDEN + HIDDEN + SHOWN, HIDDEN + HIDDEN),
        (_frame(frame_type=2), b""),
        (_frame(kind=FRAME_HEADER) + _obu(TILE_GROUP, b"1") + _obu(REDUNDANT_FRAME_HEADER) + _obu(TILE_GROUP), b""),
        (HIDDEN + _obu(FRAME, SHOWN[3:], has_size=False), HIDDEN),
    ],
    ids=["shown", "padded", "one hidden", "two hidden", "intra only", "tiles of their own", "without its size"],
)
def test_a_frame_that_is_only_shown_is_left_out(unit, needed):
    assert Av1Thinner(_sequence()).count_needed_bytes(unit) == len(needed)


@pytest.mark.parametrize("slots", [1 << slot for slot in range(8)])
@pytest.mark.parametrize("frame_type", [1, 2])
def test_a_frame_that_is_kept_in_a_slot_is_needed(frame_type, slots):
    unit = HIDDEN + _frame(frame_type=frame_type, slots=slots)
    assert Av1Thinner(_sequence()).count_needed_bytes(unit) == len(unit)


@pytest.mark.parametrize(
    "unit",
    [
        _frame(frame_type=0),
        _frame(frame_type=3),
        _frame(resilient=1),
        SHOWS_EXISTING,
        HIDDEN + SHOWS_EXISTING,
        HIDDEN,
        _frame(shown=0),
        SHOWN + SHOWN,
        SHOWN + HIDDEN,
        SHOWS_EXISTING + SHOWN,
        _sequence() + SHOWN,
        _obu(METADATA, b"\x01") + SHOWN,
        SHOWN + _obu(METADATA, b"\x01"),
        _obu(TILE_LIST) + SHOWN,
        _obu(RESERVED) + SHOWN,
        _frame(kind=FRAME_HEADER),
        _frame(kind=FRAME_HEADER, shown=0) + SHOWN,
        _obu(TILE_GROUP) + SHOWN,
        _obu(FRAME, SHOWN[3:6]),
        _obu(FRAME, SHOWN[3:], has_size=False, flags=0b100),
        _obu(FRAME, SHOWN[3:], flags=1),
        bytes([SHOWN[0] | 0x80]) + SHOWN[1:],
        bytes([SHOWN[0]]) + b"\x99" + b"\x80" * 7 + SHOWN[3:],
        b"",
    ],
)
def test_whatever_is_unusual_is_needed_whole(unit):
    assert Av1Thinner(_sequence()).count_needed_bytes(unit) == len(unit)
