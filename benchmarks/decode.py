r"""What reading clips costs: ``ClipReader`` beside torchcodec, decord, a naive loop and a sequential sweep.

Usage: python benchmarks/decode.py [--peers PYTHON] [--repetitions 7] [--only SUBSTRING] [--long] [--json]

Measured is the CPU time, user and system, of opening a video, reading the frames of a pattern scaled to uint8 RGB, and
closing it, on one thread. All readers of a case are run in turn; a ratio is the median over the repetitions of other / ours
of the same turn, given with its quartiles. The round before the first repetition does not count: it checks that our pixels
are those of a sequential decode, every one, and that the others show the same moments.

Videos: 67 seconds of 854x480 to 112x112 and 17 seconds of 1920x1080 to 224x224, as H.264 with a keyframe every 48 and every
250 frames, and as HEVC, VP9 and AV1 with one every 48 (``decode_videos.py``). Encoding them takes about five minutes of CPU
the first time; they are kept in ``--videos``. Patterns:

- ``10x16``: ten clips of 16 frames, every second frame, at random places of fixed seed;
- ``dense2``: every second frame of the first 10 (480p) or 4 seconds (1080p);
- ``uniform16``: 16 frames over the whole video.

Others, ratio = theirs / ours:

- ``torchcodec``: exact mode, with the FFmpeg that it finds, as it is installed; scaled by torch or by its own Resize
  transform, whichever is quicker (``measured_as`` tells);
- ``torchcodec, our FFmpeg``: the same with the libraries that PyAV brings, so that only the ways of reading differ;
- ``decord``: scales inside its decoder, one thread; brings its own FFmpeg. Release 0.6.0 opens no AV1, and on HEVC shows
  some moments up to three frames late, which ``same_moments`` tells;
- ``naive loop``: PyAV, every frame to full-size RGB, the wanted ones scaled by torch; only for ``10x16`` of h264-gop48;
- ``sequential sweep``: PyAV from the start to the last wanted frame, those converted as ours are; only for ``dense2``.

All of it takes about a quarter of an hour of two idle cores.

``--long`` adds ``10x16`` of a video of 60 minutes, and its peak memory and CPU time against those of the short one.

The others need an interpreter of their own, ``--peers`` or the environment variable CDLABEL_BENCH_PEERS; without it they are
left out, and the output says so. torchcodec needs FFmpeg's shared libraries (Debian's package ffmpeg has them), and a release
that was built for the torch beside it (0.13 for torch 2.13); releases from 0.14 load only beside torch built for CUDA:

    apt-get install ffmpeg
    python3 -m venv peers
    peers/bin/pip install "torch==2.13.0+cpu" "torchcodec==0.13.0" "decord==0.6.0" numpy
"""

from __future__ import annotations

import contextlib
import gc
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

import av
import numpy as np
import torch
from av.video.reformatter import Interpolation, VideoReformatter
from decode_peer_process import SAME_FFMPEG, PeerProcess, start_peers
from decode_peers import cpu_seconds
from decode_videos import FRAMES_PER_SECOND, TEST_VIDEOS, TestVideo, make_video
from document import argument_parser, document
from numpy.typing import NDArray

from cdmodel.decode import ClipReader
from cdmodel.decode_limits import DecodeLimits
from cdmodel.decoder_name import DECODER_NAME
from cdmodel.sampling import ClipGeometry, ClipSampling, frame_times, nominal_span

CLIP_FRAMES = 16
CLIP_LENGTH_FRAMES = 2 * CLIP_FRAMES
# Parts of a little less than two frames put the middle of part k well inside frame 2 k, and not on its edge.
CLIP_SECONDS = (CLIP_LENGTH_FRAMES - 0.8) / FRAMES_PER_SECOND
START_GRID_FRAMES = 3
OUTPUT_SIZE = {480: 112, 1080: 224}
DENSE_SECONDS = {480: 10, 1080: 4}
HOUR_TIMES = 54
MEASURED_FURTHER = 1.1
"""A way of using a peer that takes this much more than its best in the first round is not measured further."""
MS_PER_SECOND = 1000
KIB_PER_MIB = 1024
LIMITS = DecodeLimits(deadline_seconds=3600)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """Which frames are asked for, as our reader is told."""

    name: str
    sampling: ClipSampling
    wanted: tuple[int, ...]

    def moments_seconds(self) -> list[float]:
        """Return when the frames of all wanted clips are on show, ascending."""
        spans = (nominal_span(index, self.sampling) for index in self.wanted)
        return [moment for span in spans for moment in frame_times(span, CLIP_FRAMES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """All frames of one video, decoded from first to last."""

    start_seconds: NDArray[np.float64]
    pixels_FCHW: NDArray[np.uint8]

    def frames_at(self, moments_seconds: Sequence[float], num_frames: int) -> list[int]:
        """Return the index of the frame on show at each moment, in a video that may repeat this one."""
        period_seconds = len(self.start_seconds) / FRAMES_PER_SECOND
        repeats = num_frames // len(self.start_seconds)
        starts = np.concatenate([self.start_seconds + period_seconds * repeat for repeat in range(repeats)])
        return (np.searchsorted(starts, moments_seconds, side="right") - 1).tolist()

    def pixels_of(self, frames: Sequence[int]) -> NDArray[np.uint8]:
        """Return pixels [F, C, H, W] of a video that may repeat this one."""
        return self.pixels_FCHW[np.asarray(frames) % len(self.start_seconds)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One pattern of one video, and which of our process's other readers are measured on it."""

    name: str
    path: Path
    pattern: Pattern
    geometry: ClipGeometry
    frames: list[int]
    local_readers: tuple[str, ...]


@dataclass(slots=True)
class Findings:
    """What the first round found."""

    frames_decoded: int = 0
    pixels_identical: bool = False
    same_moments: dict[str, bool] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--peers", default=os.environ.get("CDLABEL_BENCH_PEERS"), help="interpreter of the others")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    parser.add_argument("--long", action="store_true", help="add the video of 60 minutes")
    parser.add_argument("--videos", type=Path, default=Path(tempfile.gettempdir()) / "cdlabel-decode-videos")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    progress = sys.stderr if arguments.json else sys.stdout
    cases: dict[str, dict] = {}
    with contextlib.ExitStack() as stack:
        peers = start_peers(stack, arguments.peers) if arguments.peers else {}
        for case, reference in plan_cases(arguments.videos, arguments.only, long=arguments.long):
            cases[case.name] = measure_case(case, reference, peers, arguments.repetitions)
            print(as_lines(case.name, cases[case.name]), file=progress, flush=True)
        versions = {name: version for peer in peers.values() for name, version in peer.versions.items()}
    if arguments.long and not arguments.only:
        lengths = measure_length(arguments.videos, arguments.repetitions)
        print(*(as_lines(name, case) for name, case in lengths.items()), sep="\n", file=progress)
        cases |= lengths
    report = document("decode", cases, arguments.repetitions) | {
        "versions": {"ours": DECODER_NAME, **versions},
        "left_out": None if peers else "torchcodec and decord: no interpreter given with --peers",
    }
    if arguments.json:
        print(json.dumps(report))
    elif not peers:
        print(report["left_out"])
    if not all(case.get("pixels_identical", True) for case in cases.values()):
        sys.exit("our pixels differ from those of a sequential decode")


def plan_cases(folder: Path, only: str, *, long: bool) -> Iterator[tuple[Case, Reference]]:
    """Yield the cases whose name contains ``only``, those of one video after another."""
    for video in TEST_VIDEOS:
        patterns = [clips_at_random(video.num_frames), every_second_frame(video), spread_over(video)]
        planned = [(f"{video.name} {pattern.name}", 1, pattern) for pattern in patterns]
        if long and video is TEST_VIDEOS[0]:
            planned.append(
                (f"{video.name} 60 minutes 10x16", HOUR_TIMES, clips_at_random(video.num_frames * HOUR_TIMES))
            )
        planned = [plan for plan in planned if only in plan[0]]
        if not planned:
            continue
        size = OUTPUT_SIZE[video.height]
        reference = decode_reference(make_video(video, folder), size)
        for name, times, pattern in planned:
            naive = ("naive loop",) if pattern.name == "10x16" and video.name.endswith("gop48") else ()
            sweep = ("sequential sweep",) if pattern.name == "dense2" else ()
            yield (
                Case(
                    name=name,
                    path=make_video(video, folder, times),
                    pattern=pattern,
                    geometry=ClipGeometry(frames=CLIP_FRAMES, height=size, width=size),
                    frames=reference.frames_at(pattern.moments_seconds(), video.num_frames * times),
                    local_readers=naive + sweep if times == 1 else (),
                ),
                reference,
            )


def clips_at_random(num_frames: int, clips: int = 10) -> Pattern:
    """Return clips that do not overlap, drawn from all such sets alike."""
    stride_seconds = START_GRID_FRAMES / FRAMES_PER_SECOND
    apart = -(-CLIP_LENGTH_FRAMES // START_GRID_FRAMES)
    places = (num_frames - CLIP_LENGTH_FRAMES) // START_GRID_FRAMES + 1 - (clips - 1) * (apart - 1)
    drawn = np.sort(np.random.default_rng(0).choice(places, clips, replace=False)) + np.arange(clips) * (apart - 1)
    sampling = ClipSampling(clip_seconds=CLIP_SECONDS, stride_seconds=stride_seconds)
    return Pattern(name="10x16", sampling=sampling, wanted=tuple(drawn.tolist()))


def every_second_frame(video: TestVideo) -> Pattern:
    clips = DENSE_SECONDS[video.height] * FRAMES_PER_SECOND // CLIP_LENGTH_FRAMES
    sampling = ClipSampling(clip_seconds=CLIP_SECONDS, stride_seconds=CLIP_LENGTH_FRAMES / FRAMES_PER_SECOND)
    return Pattern(name="dense2", sampling=sampling, wanted=tuple(range(clips)))


def spread_over(video: TestVideo) -> Pattern:
    sampling = ClipSampling(clip_seconds=video.seconds, stride_seconds=video.seconds)
    return Pattern(name="uniform16", sampling=sampling, wanted=(0,))


def measure_case(case: Case, reference: Reference, peers: Mapping[str, PeerProcess], repetitions: int) -> dict:
    """Check every reader, then run them in turn."""
    findings = Findings()
    ways = check_readers(case, reference, peers, findings)
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repetitions):
        for way in ways:
            taken[way].append(run_reader(way, case, peers))
    ours = taken.pop("ours")
    best = best_ways({way: median(seconds) for way, seconds in taken.items()})
    asked = len(set(case.frames))
    return as_case(ours, {name: taken[way] for name, way in best.items()}) | {
        "measured_as": best,
        "frames_asked": asked,
        "frames_decoded": findings.frames_decoded,
        "frames_decoded_per_asked": round(findings.frames_decoded / asked, 3),
        "pixels_identical": findings.pixels_identical,
        "same_moments": findings.same_moments,
        "errors": findings.errors,
    }


def check_readers(
    case: Case, reference: Reference, peers: Mapping[str, PeerProcess], findings: Findings
) -> tuple[str, ...]:
    """Run every reader once; return those to measure: without the failed, and without the slower ways of using a peer."""
    pixels_NTCHW, findings.frames_decoded = read_ours(case)
    expected_FCHW = reference.pixels_of(case.frames)
    findings.pixels_identical = bool(np.array_equal(pixels_NTCHW.reshape(expected_FCHW.shape), expected_FCHW))
    seconds: dict[str, float] = {}
    for way, process in ((way, peer) for peer in peers.values() for way in peer.readers):
        answer = process.ask(way, case.path, case.frames, case.geometry.height, case.geometry.width, with_pixels=True)
        if isinstance(answer, str):
            findings.errors[way] = answer
            continue
        seconds[way] = answer.cpu_seconds
        findings.same_moments[way] = shows_same_moments(answer.pixels_FCHW, answer.pts_seconds, case.frames, reference)
    best = best_ways(seconds)
    good = (way for way, taken in seconds.items() if taken <= MEASURED_FURTHER * seconds[best[group_of(way)]])
    return ("ours", *good, *case.local_readers)


def shows_same_moments(
    pixels_FCHW: NDArray[np.uint8], pts_seconds: Sequence[float], frames: Sequence[int], reference: Reference
) -> bool:
    """Tell whether times are right, and every picture is more like the frame asked for than like those beside it."""
    last = len(reference.start_seconds) - 1
    for shown, pts, frame in zip(pixels_FCHW, pts_seconds, frames, strict=True):
        if abs(pts - frame / FRAMES_PER_SECOND) > 0.1 / FRAMES_PER_SECOND:
            return False
        place = frame % (last + 1)
        near = [place, max(place - 1, 0), min(place + 1, last)]
        differences = [np.abs(shown.astype(np.int16) - reference.pixels_FCHW[index]).mean() for index in near]
        if differences[0] > min(differences):
            return False
    return True


def run_reader(way: str, case: Case, peers: Mapping[str, PeerProcess]) -> float:
    """Return the CPU seconds of one reading."""
    gc.collect()
    started = cpu_seconds()
    match way:
        case "ours":
            read_ours(case)
        case "naive loop":
            read_naively(case)
        case "sequential sweep":
            sweep(case)
        case _:
            peer = next(peer for peer in peers.values() if way in peer.readers)
            answer = peer.ask(way, case.path, case.frames, case.geometry.height, case.geometry.width)
            assert not isinstance(answer, str), answer
            return answer.cpu_seconds
    return cpu_seconds() - started


def group_of(way: str) -> str:
    """Return the name under which a way of using a peer is told."""
    if way.startswith("torchcodec"):
        return "torchcodec, our FFmpeg" if way.endswith(SAME_FFMPEG) else "torchcodec"
    return way


def best_ways(seconds: Mapping[str, float]) -> dict[str, str]:
    """Return the quickest way of each reader."""
    best: dict[str, str] = {}
    for way in sorted(seconds, key=seconds.__getitem__):
        best.setdefault(group_of(way), way)
    return best


def read_ours(case: Case) -> tuple[NDArray[np.uint8], int]:
    """Return pixels [N, T, C, H, W] and the frames decoded."""
    with case.path.open("rb") as file:
        reader = ClipReader(file, case.path.name, case.pattern.sampling, LIMITS)
        batches = [batch.pixels_NTCHW for batch in reader.read_clips(case.geometry, case.pattern.wanted)]
        return np.concatenate(batches), reader.summary().frames_decoded


def read_naively(case: Case) -> torch.Tensor:
    wanted, last = set(case.frames), max(case.frames)
    size = (case.geometry.height, case.geometry.width)
    pixels = []
    with av.open(str(case.path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for index, frame in enumerate(container.decode(stream)):
            whole_HWC = frame.to_ndarray(format="rgb24")
            if index in wanted:
                whole_NCHW = torch.from_numpy(whole_HWC).permute(2, 0, 1)[None]
                pixels.append(torch.nn.functional.interpolate(whole_NCHW, size=size, mode="bilinear", antialias=True))
            if index == last:
                break
    return torch.cat(pixels)


def sweep(case: Case) -> NDArray[np.uint8]:
    return decode_frames(case.path, case.geometry.height, set(case.frames))[1]


def decode_reference(path: Path, size: int) -> Reference:
    start_seconds, pixels_FCHW = decode_frames(path, size, None)
    return Reference(start_seconds=start_seconds, pixels_FCHW=pixels_FCHW)


def decode_frames(path: Path, size: int, wanted: set[int] | None) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Return the frames' times and their pixels, all or those whose index is wanted, decoded from the first to the last."""
    reformatter = VideoReformatter()
    start_seconds, pixels = [], []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for index, frame in enumerate(container.decode(stream)):
            if wanted is not None and index not in wanted:
                continue
            scaled = reformatter.reformat(frame, size, size, format="gbrp", interpolation=Interpolation.BILINEAR)
            green, blue, red = (
                np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[:size, :size]
                for plane in scaled.planes
            )
            pixels.append(np.stack((red, green, blue)))
            start_seconds.append(frame.time)
            if wanted is not None and len(pixels) == len(wanted):
                break
    return np.array(start_seconds) - start_seconds[0], np.stack(pixels)


def measure_length(folder: Path, repetitions: int) -> dict[str, dict]:
    """Compare ``10x16`` of the long video with that of the short, each reading in a process of its own."""
    video = TEST_VIDEOS[0]
    peaks_mib: dict[int, list[float]] = {1: [], HOUR_TIMES: []}
    seconds: dict[int, list[float]] = {1: [], HOUR_TIMES: []}
    context = multiprocessing.get_context("spawn")
    for _ in range(repetitions):
        for times in seconds:
            with context.Pool(1) as pool:
                taken, peak = pool.apply(read_and_tell, (str(folder), times))
            seconds[times].append(taken)
            peaks_mib[times].append(peak)
    short = f"{video.seconds:.0f} seconds"
    name = f"10x16 of {video.name}, 60 minutes"
    return {
        f"CPU time of {name}": as_case(seconds[HOUR_TIMES], {short: seconds[1]}),
        f"peak memory of {name}": as_case(peaks_mib[HOUR_TIMES], {short: peaks_mib[1]}, unit="MiB", factor=1),
    }


def read_and_tell(folder: str, times: int) -> tuple[float, float]:
    """Run in a child: return the CPU seconds of reading, and the peak memory of the process in MiB."""
    video = TEST_VIDEOS[0]
    size = OUTPUT_SIZE[video.height]
    case = Case(
        name="",
        path=make_video(video, Path(folder), times),
        pattern=clips_at_random(video.num_frames * times),
        geometry=ClipGeometry(frames=CLIP_FRAMES, height=size, width=size),
        frames=[],
        local_readers=(),
    )
    taken = run_reader("ours", case, {})
    return taken, peak_mib()


def peak_mib() -> float:
    """Return the most memory that this program has held; Linux only.

    What ``getrusage`` tells includes the process that started this one.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / KIB_PER_MIB


def as_case(
    ours: Sequence[float], others: Mapping[str, Sequence[float]], unit: str = "CPU ms", factor: float = MS_PER_SECOND
) -> dict:
    ratios = {name: [their / our for their, our in zip(values, ours, strict=True)] for name, values in others.items()}
    return {
        "ours": round(factor * median(ours), 1),
        "others": {name: round(factor * median(values), 1) for name, values in others.items()},
        "unit": unit,
        "ratios": {name: round(median(values), 3) for name, values in ratios.items()},
        "ratio_quartiles": {name: quartiles(values) for name, values in ratios.items()},
    }


def quartiles(values: Sequence[float]) -> list[float]:
    if len(values) < 2:
        return [round(values[0], 3)] * 2
    lower, _, upper = quantiles(values, n=4, method="inclusive")
    return [round(lower, 3), round(upper, 3)]


def as_lines(name: str, case: dict) -> str:
    """Return what one case found, for reading."""
    decoded = f"  {case['frames_decoded_per_asked']:.2f} decoded/asked" if "frames_asked" in case else ""
    exact = "" if case.get("pixels_identical", True) else "  PIXELS DIFFER"
    moments = "".join(f"  {way}: OTHER MOMENTS" for way, same in case.get("same_moments", {}).items() if not same)
    lines = [f"{name}: {case['ours']:g} {case['unit']}{decoded}{exact}{moments}"]
    for other, ratio in case["ratios"].items():
        lower, upper = case["ratio_quartiles"][other]
        lines.append(f"    {other}: {case['others'][other]:g}, ratio {ratio:.2f} [{lower:.2f}, {upper:.2f}]")
    lines.extend(f"    {way}: {error}" for way, error in case.get("errors", {}).items())
    return "\n".join(lines)


if __name__ == "__main__":
    main()
