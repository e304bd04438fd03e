"""What reading a file has cost so far."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class ReadMeter:
    """Counts for one open file; whoever talks to the store counts."""

    bytes_read: int = 0
    """Received; what a broken answer brought counts."""
    read_requests: int = 0
    """Sent to an object store, repeated ones too; read calls on a disk."""

    def count(self, size_bytes: int) -> None:
        """Count one request and what it brought."""
        self.read_requests += 1
        self.bytes_read += size_bytes
