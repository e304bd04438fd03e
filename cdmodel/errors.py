"""The whole error tree.

    LabelingError(subject, reason)
      + UsageError                the request cannot be carried out as asked; found before any work; exit code 2
          - ConfigError           a setting is unknown, out of range or contradicts another
          - SourceError           SOURCE is missing, empty, or its manifest cannot be used
          - OutputError           OUT holds something else, or cannot be written
              . NewerSchema       OUT holds a run that a newer cdlabel wrote
          - BundleError           a model bundle is damaged, unknown or refused
          - RegistryError         a model registry, or the alias or version asked of it, is unknown or cannot be used
          - ClusterError          no scheduler answers at the address given
      + VideoError                this video only: becomes a failed row, never leaves ``label_shard``
          - VideoNotFound  VideoUnreadable  NoVideoStream  NoFrames  UnsupportedCodec  DecodeError
            DecodeTimeout  DecoderCrashed  VideoTooLarge  VideoStorageError  VideoKilledWorker
      + StorageError
          - StorageUnavailable    the store did not answer, or refused
          - CommitStateUnknown    a write may or may not have happened: look before writing again
          - DamagedObject         an object is not what its name promises; refused, never repaired in place
      + RegistryConflict          an alias has moved since the caller looked: look again, then decide again
      + TrainingError             a training run cannot go on (no examples, a loss that is not a number)
      + RunError                  a run cannot be completed now; running again goes on where it stopped

Every error carries ``subject`` (the thing: a URI, a setting, an id) and ``reason`` (what is wrong and what to do), both
constructor arguments, so that errors survive pickling between processes. Callers decide by class, never by text.
"""

from __future__ import annotations

from typing import ClassVar, Literal

ErrorKind = Literal[
    "not_found",
    "unreadable",
    "no_video_stream",
    "no_frames",
    "unsupported_codec",
    "decode_error",
    "decode_timeout",
    "decoder_crashed",
    "too_large",
    "storage_error",
    "worker_killed",
]
"""Why a video failed: the values of the column ``error_kind``."""


class LabelingError(Exception):
    """Root of everything this project raises on purpose."""

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(subject, reason)
        self.subject = subject
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason}"


class UsageError(LabelingError):
    """The request cannot be carried out as asked. Raised before any work."""


class ConfigError(UsageError):
    """A setting is unknown, out of range or contradicts another one."""


class SourceError(UsageError):
    """SOURCE is missing or empty, or its manifest cannot be used."""


class OutputError(UsageError):
    """OUT holds something else, or cannot be written."""


class NewerSchema(OutputError):
    """OUT holds something that a newer version of this project wrote. Refused: its meaning cannot be guessed at."""


class BundleError(UsageError):
    """A model bundle is damaged, of an unknown schema, or asks for a builder that is not allowed."""


class RegistryError(UsageError):
    """A place is no model registry, of another schema, or knows no such alias or version."""


class ClusterError(UsageError):
    """No Dask scheduler answers at the address given."""


class VideoError(LabelingError):
    """One video cannot be labeled. ``subject`` is its URI."""

    kind: ClassVar[ErrorKind]


class VideoNotFound(VideoError):
    """No object stands at the URI."""

    kind = "not_found"


class VideoUnreadable(VideoError):
    """The container cannot be opened: not a video, encrypted, or its header is damaged."""

    kind = "unreadable"


class NoVideoStream(VideoError):
    """The container holds no moving picture (audio only, subtitles only, cover art only)."""

    kind = "no_video_stream"


class NoFrames(VideoError):
    """The stream ended without a single frame and without an error."""

    kind = "no_frames"


class UnsupportedCodec(VideoError):
    """This build of the decoder does not know the codec."""

    kind = "unsupported_codec"


class DecodeError(VideoError):
    """The decoder reported errors and nothing usable is left, or (on a partial row) something was lost."""

    kind = "decode_error"


class DecodeTimeout(VideoError):
    """Decoding took longer than the deadline for one video, or stood still."""

    kind = "decode_timeout"


class DecoderCrashed(VideoError):
    """The process that decoded the video died."""

    kind = "decoder_crashed"


class VideoTooLarge(VideoError):
    """The picture exceeds the limit on pixels, or the decoder that on memory."""

    kind = "too_large"


class VideoStorageError(VideoError):
    """The store failed while the video was being read, after its retries."""

    kind = "storage_error"


class VideoKilledWorker(VideoError):
    """A worker died while it was labeling the video, after another had died on the same shard."""

    kind = "worker_killed"


class StorageError(LabelingError):
    """Something went wrong between us and a store. ``subject`` is a URI."""


class StorageUnavailable(StorageError):
    """The store did not answer, or refused."""


class CommitStateUnknown(StorageError):
    """A write timed out and the object cannot be looked at: it may or may not exist."""


class DamagedObject(StorageError):
    """An object is not what its name promises."""


class RegistryConflict(LabelingError):
    """An alias has moved since the caller looked at it. Nothing was changed."""


class TrainingError(LabelingError):
    """A training run cannot go on."""


class RunError(LabelingError):
    """A run cannot be completed now. Finished shards are kept; running again goes on."""
