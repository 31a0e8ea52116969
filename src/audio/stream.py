"""Decoded blocks of the first audio stream of a file, by FFmpeg (the copy in PyAV's wheel), without PyTorch.

Three rules keep data from reaching anything but its own bytes:

* the file is opened here and handed over as a stream of bytes, so that no name is ever read as a URL;
* FFmpeg's own probe names the container, and only those of :data:`FORMATS` may be opened: lists of other files
  (HLS, DASH, SDP, concat) are not among them, and whatever a container wants to open beside itself is refused;
* only audio codecs may be opened, and only for the first audio stream: pictures and video are skipped undecoded.

What was decoded counts, not what headers and timestamps say; where a header is to be trusted (see
:mod:`src.audio.headers`) and more than 1 % is missing, the file is an error.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from src.audio.budget import Allowance, MemoryBudget
from src.audio.errors import AudioError, NoSamples, first_line
from src.audio.headers import (
    FARTHEST,
    FileView,
    begins_as_mp3,
    corrected,
    has_ogg_holes,
    missing_share,
    next_ogg_stream,
    stated_samples,
)
from src.common.errors import UserError

Samples = NDArray[np.float32]
FORMATS = (
    "wav", "w64", "aiff", "au", "caf", "flac", "ogg", "mp3", "aac", "mov", "matroska", "asf", "xwma", "mpegts",
    "mpeg", "avi", "flv", "amr", "wv", "ape", "tta", "tak", "mpc", "mpc8", "nistsphere", "ac3", "eac3", "dts", "loas",
    "voc", "dsf", "ircam", "sox", "iff", "rm", "avr",
)  # fmt: skip
"""Containers by FFmpeg's names; none of them names other files (references of QuickTime files are not followed)."""
CLIENT_FORMATS = ("wav", "flac", "mp3", "ogg")
CLIENT_CODECS = ("pcm_", "adpcm_", "mp3", "flac", "vorbis", "libvorbis", "opus", "libopus")
OTHER_CODECS = (
    b"\x7f\xfe\x80\x01", b"\xfe\x7f\x01\x80", b"\x1f\xff\xe8\x00", b"\xff\x1f\x00\xe8", b"\x72\xf8\x1f\x4e",
)  # fmt: skip
"""Marks of DTS (in its four forms) and IEC 61937, which some WAV files carry in place of PCM samples."""
LOSS = 0.01
"""Share of a file that may be missing or undecodable."""
SEAM = 2
"""Packets that may be undecodable in any file: those at its ends, and where two files were joined."""
_SAMPLE_FORMATS: dict[str, tuple[Any, float]] = {
    "u8": (np.uint8, 2.0**-7), "s16": (np.int16, 2.0**-15), "s32": (np.int32, 2.0**-31), "s64": (np.int64, 2.0**-63),
    "flt": (np.float32, 1.0), "dbl": (np.float64, 1.0),
}  # fmt: skip
"""FFmpeg's sample formats: NumPy type, and the factor that brings its full scale to 1."""
WITH_HEADER = frozenset({"wav", "w64", "aiff", "au", "caf", "flac", "ogg", "mov", "matroska", "asf"})
"""Containers that a probe does not take for others; one of these without samples is an empty clip."""
SEEKABLE = frozenset({"wav", "w64", "flac", "aiff", "au", "caf"})
"""Containers whose PCM samples (FLAC: its frames) can be entered anywhere."""
_READ, _BLOCK_BYTES = 1 << 16, 1 << 20


@dataclass(frozen=True)
class DecodeLimits:
    """Limits on the cost of one clip.

    Args:
        seconds: longest clip.
        samples: most samples over all channels.
        file_bytes: largest encoded file.
        work_seconds: longest time that decoding may take.
        rates: lowest and highest sampling rate.
        channels: most channels.
        formats: containers (:data:`FORMATS`).
        codecs: how FFmpeg's names of codecs may begin; none given: any.
        memory: memory that all clips of the process share.
        hold_memory: whether decoded samples count in ``memory`` until they are dropped, and a clip that finds no room
            within ``wait_seconds`` is refused; otherwise only clips being decoded count, and a clip waits its turn.
        request: what all clips of one request may decode to together.
    """

    seconds: float = math.inf
    samples: int = 1 << 31
    file_bytes: int = 1 << 34
    work_seconds: float = 600.0
    rates: tuple[int, int] = (100, 768_000)
    channels: int = 256
    formats: Sequence[str] = FORMATS
    codecs: Sequence[str] = ()
    memory: MemoryBudget | None = None
    hold_memory: bool = False
    wait_seconds: float = 1.0
    request: Allowance | None = None


PROCESS_MEMORY = MemoryBudget(1 << 30)
"""Samples of all clips that are being decoded at a time; a larger clip is decoded alone."""
DEFAULT = DecodeLimits(memory=PROCESS_MEMORY)


class AudioStream:
    """Blocks ``(channels, n)`` float32 of the first audio stream of a file, at the rate and layout it begins with.

    Iterating to the end checks what was decoded. ``name``, ``rate``, ``channels`` and ``container`` are known once it
    is opened; ``stated`` is what the header says, in samples, ``None`` if it says nothing; unless ``trusted`` it is
    only a hint. ``size`` is that of the file in bytes.
    """

    def __init__(self, source: Path | bytes, name: str = "", limits: DecodeLimits = DEFAULT) -> None:
        self.name = name or (f"audio bytes ({len(source)} bytes)" if isinstance(source, bytes) else str(source))
        self._limits = limits
        self._until = time.monotonic() + limits.work_seconds
        self._file, self.size = _open_file(source, self.name)
        self._container: Any = None
        self.decoded = 0
        self._lost, self._lost_packets = 0.0, 0
        self._failure = ""
        try:
            if self.size > limits.file_bytes:
                raise AudioError(f"{self.name}: {self.size} bytes, expected at most {limits.file_bytes}", "too_long")
            self._missing, self._claim = missing_share(self._file, self.size)
            self._refuse_loss(self._missing, self._claim)
            self._begins = 0
            self._container, self._stream = _open_container(corrected(self._file, self.size), self.name, limits)
            self.container = str(self._container.format.name)
            self._look()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> AudioStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._container is not None:
            self._container.close()
        self._file.close()

    @property
    def seekable(self) -> bool:
        """Whether :meth:`stretch` can enter the file anywhere, exactly."""
        names = set(self.container.split(","))
        codec = str(self._stream.codec_context.name)
        return bool(names & SEEKABLE) and (codec.startswith("pcm_") or codec == "flac" and "flac" in names)

    def stretch(self, start: int, stop: int) -> Samples | None:
        """Samples ``start`` to ``stop``, ``(channels, n)``, without decoding what is before them.

        ``None`` where the file's timestamps do not say where its samples are, or its format changes.
        """
        import av

        base = self._stream.time_base
        origin = self._stream.start_time or 0
        try:
            self._container.seek(origin + math.floor(start / (self.rate * base)), stream=self._stream)
        except av.FFmpegError:
            return None
        pieces, at = [np.zeros((self.channels, 0), np.float32)], -1
        for frame in itertools.chain.from_iterable(self._frames):
            if frame.pts is None or (frame.sample_rate, frame.layout.nb_channels) != (self.rate, self.channels):
                return None
            place = round((frame.pts - origin) * base * self.rate)
            if place > start and at < 0 or 0 <= at != place:
                return None
            at = place + frame.samples
            pieces.append(_as_floats(frame)[:, max(0, start - place) : max(0, stop - place)].copy())
            if at >= stop:
                break
        return np.concatenate(pieces, axis=1)

    def _look(self) -> None:
        """Decode the first frame: it says rate and channels as they are, whatever the header says."""
        self._check_codec()
        self._frames = self._decoded_packets()
        self._begin: list[Any] = next(filter(None, self._frames), [])
        if not self._begin:
            self._check_whole()
        first = self._begin[0]
        self.rate, self.channels = int(first.sample_rate), int(first.layout.nb_channels)
        low, high = self._limits.rates
        if not low <= self.rate <= high:
            raise AudioError(f"{self.name}: {self.rate} samples per second, expected {low} to {high}")
        if not 1 <= self.channels <= self._limits.channels:
            raise AudioError(f"{self.name}: {self.channels} channels, expected 1 to {self._limits.channels}")
        codec = str(self._stream.codec_context.name)
        self.stated, self.trusted, self._slack = stated_samples(self._container, self._stream, self.rate)
        self._delay = _opus_delay(self._stream) if codec.endswith("opus") and "matroska" in self.container else 0
        # the stated length of PCM is that of the file, whatever its header says
        if self.stated is not None and (self.trusted or codec.startswith("pcm_")):
            self._check_length(self.stated, "")

    def _check_codec(self) -> None:
        codec = str(self._stream.codec_context.name)
        if self._limits.codecs and not codec.startswith(tuple(self._limits.codecs)):
            known = "PCM, ADPCM, MP3, FLAC, Vorbis or Opus"
            raise AudioError(f"{self.name}: cannot be read: its codec is {codec!r}, expected {known}")

    def _decoded_packets(self) -> Iterator[list[Any]]:
        """Frames of each packet; none where it cannot be decoded."""
        import av

        now, more = time.monotonic, True
        while more:
            at, context = self._begins, self._stream.codec_context
            plain = str(context.name).startswith(CLIENT_CODECS)  # none makes layouts of its own
            try:
                for packet in self._container.demux(self._stream):
                    try:
                        frames: list[Any] = context.decode(packet)
                    except (av.FFmpegError, ValueError) as error:
                        frames = []
                        if not isinstance(error, av.EOFError):  # which is the answer to the last packet
                            self._lost += _samples_of(packet, context.sample_rate or 0)
                            self._lost_packets += 1
                            self._failure = self._failure or _said(error)
                    if packet.pos is not None:
                        at = self._begins + int(packet.pos)
                    if not plain:
                        for frame in frames:
                            _keep_layout(frame)
                    if now() > self._until:
                        self._refuse_time()
                    yield frames
                return
            except IndexError:
                # PyAV 18.1 at the end (container/input.py, ``demux``), where FLV, MPEG or a transport stream had a
                # stream that began after it was opened
                return
            except (av.FFmpegError, ValueError) as error:  # the container is damaged from here on
                more = self._opens_next_stream(error, at)
                if not more:
                    self._failure = self._failure or _said(error)

    def _opens_next_stream(self, error: Exception, at: int) -> bool:
        """Whether a chained Ogg file goes on behind ``at`` with another rate or layout.

        FFmpeg's demuxer refuses it since version 8: what follows is opened as a file of its own then.
        """
        import av

        if self.container != "ogg" or not isinstance(error, av.PatchWelcomeError):
            return False
        if time.monotonic() > self._until:
            self._refuse_time()
        begins = next_ogg_stream(self._file, at)
        if begins is None:
            return False
        self._container.close()
        self._begins = begins
        view = FileView(self._file, begins, self.size)
        self._container, self._stream = _open_container(view, self.name, self._limits)
        self._check_codec()
        return True

    def __iter__(self) -> Iterator[Samples]:
        import av

        first: Any = self._begin[0]
        queue, converter = _FrameQueue(first), None
        for frames in itertools.chain([self._begin], self._frames):
            for frame in frames if converter is not None else queue.add(frames):
                if not queue.fits(frame):
                    if queue.count:
                        yield self._counted(queue.take())
                    # A resampler's last millisecond is dropped where the format changes again, as FFmpeg does.
                    queue, converter = _FrameQueue(frame), None
                    if (frame.sample_rate, frame.layout.nb_channels) != (self.rate, self.channels):
                        # converted to the format of the first frame
                        layout = f"{self.channels} channels" if _is_custom(first.layout) else first.layout.name
                        converter = av.AudioResampler(format="fltp", layout=layout, rate=self.rate)
                if converter is not None:
                    yield from self._converted(converter, frame)
                else:
                    queue.add([frame])
            if queue.count >= queue.block_samples:
                yield self._counted(queue.take())
        if queue.count:
            yield self._counted(queue.take())
        if converter is not None:
            yield from self._converted(converter, None)
        self._check_whole()

    def _converted(self, converter: Any, frame: Any) -> Iterator[Samples]:
        import av

        if frame is not None:
            frame.pts = None
        try:
            made = converter.resample(frame)
        except (av.FFmpegError, ValueError) as error:
            self._lost += 0 if frame is None else frame.samples * self.rate / frame.sample_rate
            self._lost_packets += 1
            self._failure = self._failure or _said(error)
            return
        yield from (self._counted(_as_floats(each)) for each in made if each.samples)

    def _counted(self, block: Samples) -> Samples:
        if self._delay:
            dropped = min(self._delay, block.shape[1])
            block, self._delay = block[:, dropped:], self._delay - dropped
        self.decoded += block.shape[1]
        self._check_length(self.decoded)  # of what was decoded: a header may state less
        if self._limits.request is not None:
            self._limits.request.take(block.size, self.name)
        return block

    def _check_length(self, count: int, more: str = "more than ") -> None:
        limits = self._limits
        if count > limits.seconds * self.rate:
            found = f"{more}{count / self.rate:.0f} s of audio"
            raise AudioError(f"{self.name}: {found}, expected at most {limits.seconds:g} s", "too_long")
        if count * self.channels > limits.samples:
            raise AudioError(
                f"{self.name}: more than {limits.samples} samples over {self.channels} channels", "too_long"
            )

    def _refuse_time(self) -> None:
        raise AudioError(f"{self.name}: not decoded within {self._limits.work_seconds:g} s", "too_long")

    def _check_whole(self) -> None:
        """Raise if more than :data:`LOSS` of the file is missing or could not be decoded, or nothing was."""
        if not self.decoded:
            if self._failure or self._missing > LOSS:
                raise AudioError(
                    f"{self.name}: cannot be read as audio ({self._failure or self._claim}); check that the file is "
                    "whole"
                )
            if not set(self.container.split(",")) & WITH_HEADER:
                raise AudioError(
                    f"{self.name}: cannot be read as audio (no audio in it); check that the file is whole"
                )
            raise NoSamples(f"{self.name}: holds no audio samples (0 s); replace it or leave it out")
        if self._lost_packets > SEAM:
            share = self._lost / (self._lost + self.decoded)
            self._refuse_loss(share, f"{100 * share:.0f} % of it cannot be decoded ({self._failure})")
        if self.stated is not None:
            missing = self.stated - self.decoded
            short = missing > max(self._slack, LOSS * self.stated)
            if short and (self.trusted or self.container == "ogg" and has_ogg_holes(self._file)):
                held, stated = self.decoded / self.rate, self.stated / self.rate
                raise AudioError(
                    f"{self.name}: holds {held:.2f} s of the {stated:.2f} s that its header states; it may have been "
                    "cut or damaged"
                )

    def _refuse_loss(self, share: float, claim: str) -> None:
        if share > LOSS:
            raise AudioError(f"{self.name}: {claim}; it may have been cut or damaged")


def _samples_of(packet: Any, rate: int) -> float:
    """Samples that a packet stands for, as far as its container says."""
    known = packet.duration and packet.time_base is not None
    return float(packet.duration * packet.time_base) * rate if known else 0.0


def _opus_delay(stream: Any) -> int:
    """Samples of an Opus decoder's delay that FFmpeg 8.1 leaves at the start of a WebM file.

    It counts the delay (a number at 48 kHz) at the rate of the track, which for a file of 8 kHz is a sixth of it; the
    rest then shows as a first timestamp of up to 6 ms.
    """
    head = bytes(stream.codec_context.extradata or b"")
    if len(head) < 19 or head[:8] != b"OpusHead" or not stream.start_time:
        return 0
    delay, rate = int.from_bytes(head[10:12], "little"), int.from_bytes(head[12:16], "little")
    left = delay - round(delay * rate / 48000)
    begins = float(stream.start_time * stream.time_base)
    return left if left > 0 and abs(begins - left / 48000) <= 0.001 else 0


def _keep_layout(frame: Any) -> None:
    """Let a frame's layout of custom order live for ever.

    PyAV 18.1 (audio/layout.py, ``get_audio_layout``) copies FFmpeg's structure with the pointer to its channel map,
    and frame and layout would both free the map: a CAF or QuickTime file with such a layout ended the process. Since
    https://github.com/PyAV-Org/PyAV/pull/2284 layouts free what they have.
    """
    if _is_custom(frame.layout):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(frame.layout))


def _is_custom(layout: Any) -> bool:
    return " channels (" in layout.name


class _FrameQueue:
    """Samples of frames of one format, as FFmpeg holds them.

    Copied out of each frame at once: frames that are kept alive cost more (new buffers in FFmpeg, work for Python's
    garbage collector) than they cost to decode.
    """

    def __init__(self, frame: Any) -> None:
        import av
        from av.audio.plane import AudioPlane

        # not frame.planes: of more than 8 channels it reads beyond the end of their list (PyAV 18.1, audio/frame.py)
        self._make_plane: Any = AudioPlane
        self._rate, self.channels, self._kind = frame.sample_rate, frame.layout.nb_channels, frame.format
        self._time_base = frame.time_base
        self._dtype, self._scale = _SAMPLE_FORMATS[self._kind.name.removesuffix("p")]
        self._width = self._kind.bytes * (1 if self._kind.is_planar else self.channels)
        self.block_samples = _BLOCK_BYTES // self._width
        self._own_copy = _is_custom(frame.layout)
        # One for all blocks: it compares frames with the first one that was written to it.
        self._fifo = av.AudioFifo()
        self.write: Callable[[Any], None] = self._write_planes if self._own_copy else self._fifo.write
        self._clear()

    def _clear(self) -> None:
        self.count, self._filled = 0, 0
        self._planes = [bytearray() for _ in range(self.channels if self._kind.is_planar else 1)]

    def fits(self, frame: Any) -> bool:
        """Whether ``frame`` is of the format of the queue."""
        found = (frame.sample_rate, frame.layout.nb_channels, frame.format.name, frame.time_base)
        return found == (self._rate, self.channels, self._kind.name, self._time_base)

    def add(self, frames: list[Any]) -> list[Any]:
        """Append the samples of ``frames`` up to the first one of another format; that and those behind it."""
        write, channels = self.write, self.channels
        for place, frame in enumerate(frames):
            if frame.layout.nb_channels != channels:  # at which FFmpeg's queue does not look
                return frames[place:]
            frame.pts = None  # the queue would refuse a gap
            try:
                write(frame)
            except ValueError:  # another rate, sample format or time base
                return frames[place:]
            self.count += frame.samples
        return []

    def _write_planes(self, frame: Any) -> None:
        """As :meth:`av.AudioFifo.write`, which copies a layout as :func:`_keep_layout` says PyAV does."""
        if not self.fits(frame):
            raise ValueError("frame of another format")
        self._filled += frame.samples * self._width
        for number, plane in enumerate(self._planes):
            plane += self._make_plane(frame, number)
            if len(plane) > self._filled:  # FFmpeg pads planes at their end
                del plane[self._filled :]

    def take(self) -> Samples:
        """Everything so far as ``(channels, n)`` of full scale 1; the queue is empty afterwards."""
        planes, size = self._planes, self._filled
        if not self._own_copy:
            joined: Any = self._fifo.read()
            size = joined.samples * self._width
            planes = [self._make_plane(joined, number) for number in range(len(planes))]
        count = size // self._dtype(0).nbytes
        values = [np.frombuffer(plane, self._dtype, count) for plane in planes]
        self._clear()
        if self._dtype is np.float32 and len(values) == 1:
            samples: Samples = values[0][None]
        else:
            samples = np.empty((len(values), count), np.float32)
            with np.errstate(over="ignore", invalid="ignore"):  # of doubles; what is not finite is found later
                for row, plane in zip(samples, values, strict=True):
                    row[:] = plane
        if self._dtype is np.uint8:  # the only unsigned format: silence is its middle
            samples -= np.float32(128)
        if self._scale != 1.0:
            samples *= np.float32(self._scale)
        return samples if len(planes) == self.channels else samples.reshape(-1, self.channels).T


def _as_floats(frame: Any) -> Samples:
    """One frame as ``(channels, n)`` of full scale 1."""
    queue = _FrameQueue(frame)
    queue.add([frame])
    return queue.take()


class _File(io.BufferedReader):
    """A file in which a damaged header may ask for any place: PyAV prints the traceback of each error."""

    def seek(self, offset: int, whence: int = 0) -> int:
        return super().seek(min(offset, FARTHEST), whence)


def _open_file(source: Path | bytes, name: str) -> tuple[BinaryIO, int]:
    if isinstance(source, bytes):
        if not source:
            raise AudioError(f"{name}: is empty (0 bytes); replace it or leave it out", "empty_audio")
        return io.BytesIO(source), len(source)
    try:
        if not source.is_file():
            what = "is a folder" if source.is_dir() else "is not a file" if source.exists() else "does not exist"
            raise AudioError(f"audio file {name} {what}; give the path of an audio file", "missing_audio")
        # without its name, by whose ending FFmpeg would guess where the content says nothing
        file = _File(io.FileIO(os.open(source, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))), _READ)
        size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise AudioError(f"audio file {name}: {error.strerror or error}") from error
    if size == 0:
        file.close()
        raise AudioError(f"audio file {name} is empty (0 bytes); replace it or leave it out", "empty_audio")
    return file, size


_SURE_CODECS = {"flac": "flac", "mp3": "mp3float,mp3"}
"""Audio codecs that may be opened in files of which FFmpeg's own probe is sure."""


@functools.cache
def _audio_codecs() -> str:
    import av

    found = []
    for each in sorted(av.codecs_available):
        with contextlib.suppress(ValueError):  # encoders only
            if av.Codec(each, "r").type == "audio":
                found.append(av.Codec(each, "r").name)
    return ",".join(dict.fromkeys(found))


def _said(error: BaseException) -> str:
    """The words of an error, of FFmpeg's without its number."""
    return str(getattr(error, "strerror", None) or first_line(error))


def _refuse_to_open(url: str, flags: int, options: Any) -> Any:
    raise PermissionError(f"an audio file wants to open {url!r}")


def _open_container(file: BinaryIO | FileView, name: str, limits: DecodeLimits) -> tuple[Any, Any]:
    try:
        import av
    except (ImportError, OSError) as error:
        raise UserError(
            f"{name}: audio cannot be decoded because PyAV does not load ({_said(error)}); install it: pip install av"
        ) from error

    file.seek(0)
    head = file.read(_READ)
    # FFmpeg's own probe is sure of these (libavformat/flacdec.c, mp3dec.c); asking those of all other formats takes
    # a third of the time to open a file, and comparing with long lists a tenth.
    sure = "flac" if head[:4] == b"fLaC" else "mp3" if begins_as_mp3(head) else None
    formats = [sure, None] if sure in limits.formats else [None]
    # "none" is no protocol, so none is allowed; a few kilobytes may declare as many streams as FFmpeg takes (1000)
    options = {"protocol_whitelist": "none", "max_streams": "256"}
    if head[:4] in (b"RIFF", b"RF64") and not any(sync in head for sync in OTHER_CODECS):
        # whether its PCM is DTS or AC-3 is looked for in a megabyte otherwise, which costs more than decoding it
        options["max_probe_packets"] = "1"
    try:
        for format_name in formats:
            file.seek(0)
            options["format_whitelist"] = format_name or ",".join(limits.formats)
            options["codec_whitelist"] = _SURE_CODECS.get(format_name or "") or _audio_codecs()
            with contextlib.suppress(*([av.FFmpegError] if format_name else [])):
                container = av.open(
                    file,
                    format=format_name,
                    options=options,
                    io_open=_refuse_to_open,
                    buffer_size=_READ,
                    metadata_errors="replace",  # tags may be of any encoding
                    timeout=(limits.work_seconds, limits.work_seconds),
                )
                break
    except (av.FFmpegError, ValueError, PermissionError) as error:
        file.seek(0)
        reason = f"not of a known format, or damaged at its beginning, {file.read(8)!r}; {_said(error)}"
        raise AudioError(f"{name}: cannot be read as audio ({reason}); check that the file is whole") from error
    stream = next(iter(container.streams.audio), None)
    if stream is None or stream.codec_context is None:
        what = "it holds no audio" if stream is None else "its audio codec is not known"
        container.close()
        raise AudioError(f"{name}: cannot be read as audio ({what}); give an audio file")
    stream.codec_context.thread_count = 1  # several clips are decoded at a time, in workers
    if stream.codec_context.name == "alac" and container.format.name == "caf":
        # the frames say how long they are; FFmpeg 8 cuts what is missing in the last one off it once more
        from av.codec.context import Flags2

        stream.codec_context.flags2 |= Flags2.skip_manual
    layout = stream.codec_context.layout
    if _is_custom(layout):  # see _keep_layout; ``layout`` now is the only owner of the map
        stream.codec_context.layout = f"{layout.nb_channels} channels"
    return container, stream
