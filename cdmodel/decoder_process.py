"""One decoder in a process of its own, as seen from the process that started it: start it, talk to it, kill it.

Knows nothing of clips: see ``decoder_pool``. What runs on the other side is ``decoder_child``.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import time
from multiprocessing.connection import Connection

from cdmodel.decode_limits import DecodeLimits
from cdmodel.decoder_memory import LifeSigns, SharedFrames, create_shared_file
from cdmodel.decoder_messages import Accepted, Answer, OpenVideo, Request
from cdmodel.errors import DecoderCrashed, DecodeTimeout, RunError

START_SECONDS = 300.0
"""A decoder that has not taken its first video by then will not come up."""
LAST_CHANCE_SECONDS = 0.5
"""What a decoder gets beyond its time, to say so itself, and for a machine that stood still as a whole."""
CHECK_SECONDS = 0.5
POLL_SECONDS = 0.001
DEATH_SECONDS = 10.0
"""A killed process that is not gone by then waits in the kernel, for a disk perhaps; it is left behind."""


class DecoderProcess:
    """A running decoder. Not safe for use by two threads at once.

    On Linux it is killed by the kernel when the *thread* that made it ends: see ``DecoderPool``.
    """

    def __init__(self) -> None:
        """Start it; returns long before it is ready.

        Raises:
            RunError: the system starts no more processes.
        """
        ours, theirs = socket.socketpair()
        memory = create_shared_file()
        with theirs:
            try:
                self._process = _start(theirs.fileno(), memory)
            except OSError as error:
                ours.close()
                os.close(memory)
                raise RunError("the decoder", f"its process cannot be started ({error.strerror})") from error
        self._connection: Connection = Connection(ours.detach())
        # The connection's own poll sets one up for every call.
        self._poller = select.poll()
        self._poller.register(self._connection, select.POLLIN)
        self._memory = memory
        self._signs = LifeSigns(memory)
        self.frames = SharedFrames(memory)
        self.cpu_seconds = 0.0
        """Of the process's whole life, once it has died in the middle of a video."""

    def is_running(self) -> bool:
        """Tell whether it has not ended by itself, as it may at any time between two videos."""
        return self._process.poll() is None

    def offer(self, video: OpenVideo) -> bool:
        """Hand over the next video; False if the decoder was gone before it got to know it.

        Raises:
            RunError: it does not come up.
        """
        try:
            self._connection.send_bytes(pickle.dumps(video))
            if not self._has_answer(START_SECONDS):
                raise RunError("the decoder", f"its process is not ready after {START_SECONDS:g} s")
            return isinstance(self._connection.recv(), Accepted)
        except (EOFError, OSError):
            return False

    def send(self, request: Request) -> None:
        """Ask for something; a decoder that is gone is found out when its answer is missed."""
        try:
            self._connection.send_bytes(pickle.dumps(request))
        except OSError:
            # The death is told, with its cause, by ``receive``.
            return

    def receive(self, uri: str, limits: DecodeLimits) -> Answer:
        """Wait for the next answer. After an error the decoder is of no more use: kill it.

        Raises:
            DecodeTimeout: the deadline has passed, or nothing has moved for too long.
            DecoderCrashed: the decoder has died.
        """
        waiting_since = time.monotonic()
        try:
            while not self._has_answer(CHECK_SECONDS):
                if self._out_of_time(limits, waiting_since) and not self._has_answer(LAST_CHANCE_SECONDS):
                    reason = self._out_of_time(limits, waiting_since)
                    if reason is not None:
                        raise DecodeTimeout(uri, reason)
            answer: Answer = self._connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            self._wait(LAST_CHANCE_SECONDS)
            raise DecoderCrashed(uri, self._describe_death()) from error
        return answer

    def kill(self) -> None:
        """End it, whatever it does. Arrays that came from it stay what they are."""
        if self._connection.closed:
            return
        self._connection.close()
        os.close(self._memory)
        if self._process.returncode is None:
            self._process.kill()
            self._wait(DEATH_SECONDS)

    def _has_answer(self, seconds: float) -> bool:
        """Wait for an answer, or the end of the connection."""
        return bool(self._poller.poll(seconds * 1000))

    def _out_of_time(self, limits: DecodeLimits, waiting_since: float) -> str | None:
        until_deadline, until_stalled = self._signs.seconds_left(limits, waiting_since)
        if until_deadline <= 0:
            return f"decoding took longer than decode.deadline_seconds = {limits.deadline_seconds:g}"
        return f"no progress for {limits.stall_seconds:g} s (decode.stall_seconds)" if until_stalled <= 0 else None

    def _wait(self, seconds: float) -> None:
        """Let the process end, and learn what it has used."""
        give_up_at = time.monotonic() + seconds
        while self._process.returncode is None and time.monotonic() < give_up_at:
            process_id, status, usage = os.wait4(self._process.pid, os.WNOHANG)
            if process_id:
                self._process.returncode = os.waitstatus_to_exitcode(status)
                self.cpu_seconds = usage.ru_utime + usage.ru_stime
            else:
                time.sleep(POLL_SECONDS)

    def _describe_death(self) -> str:
        match self._process.returncode:
            case None:
                return "the decoder no longer answers sensibly"
            case int(code) if code < 0:
                hint = ", as where the machine's memory is used up" if code == -signal.SIGKILL else ""
                return f"the decoder died of signal {signal.Signals(-code).name}{hint}"
            case code:
                return f"the decoder ended by itself with code {code}"


def _start(connection: int, memory: int) -> subprocess.Popen[bytes]:
    """Start the decoder with this process's own packages.

    Not by ``multiprocessing``: that would load the main module, and with it everything a worker has.
    """
    arguments = [str(connection), str(memory), str(os.getpid())]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "cdmodel.decoder_child", *arguments],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),  # noqa: PTH109
            # NumPy's threads would take memory and do nothing.
            "OPENBLAS_NUM_THREADS": "1",
        },
        pass_fds=(connection, memory),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        # A Ctrl-C on the terminal is for the parent, which then ends its decoders.
        start_new_session=True,
    )
