"""What the service takes, and how long it waits: an answer for each request, whatever the others send."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.preprocessing import MAX_FILE_BYTES

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Limits of one request, and of all requests together."""

    file_bytes: int = MAX_FILE_BYTES
    request_files: int = 1000  # images, the members of archives among them
    request_bytes: int = 256 * MIB
    unpacked_bytes: int = 1024 * MIB  # of the members of its archives
    header_bytes: int = 16 * 1024  # of one line of a part's head, in which the file's name stands
    json_bytes: int = 8 * MIB  # a list of lists takes up to twenty times as much memory as its text
    bytes_at_a_time: int = 1024 * MIB  # of all requests that are being read or answered
    waiting_cells: int = 2048  # from which on no request is taken
    connections: int = 512
    head_s: float = 10.0  # for a request's head to arrive, and for a connection without a request
    stall_s: float = 10.0  # for each PROGRESS_BYTES of a body
    body_s: float = 300.0  # for a whole body
    answer_s: float = 60.0  # for a client to take its answer


PROGRESS_BYTES = 64 * 1024
