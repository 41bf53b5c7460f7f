"""What a call raises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc

from . import _protocol


class LociError(Exception):
    """A call that the server refused, or that did not reach it.

    Attributes
    ----------
    code : grpc.StatusCode
        Says who must act: the caller (INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION, ALREADY_EXISTS), a retry (UNAVAILABLE,
        RESOURCE_EXHAUSTED, ABORTED, DEADLINE_EXCEEDED), or who runs the server (INTERNAL, DATA_LOSS).
    message : str
        For people: names the field, the value and the limit.
    reason : str
        Machine-readable and stable, such as "SESSION_NOT_FOUND"; empty where the server gave none.
    metadata : dict of str to str
        What goes with the reason, such as {"field": "top_k"}.
    method : str
        "RetrievalService.Search".
    attempts : int
        How often the call was tried.
    """

    def __init__(self, code: grpc.StatusCode, message: str, reason: str = "", metadata: Mapping[str, str] | None = None, method: str = "",
                 attempts: int = 1) -> None:
        super().__init__(code, message, reason, metadata, method, attempts)
        self.code = code
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.method = method
        self.attempts = attempts

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        attempts = f" [after {self.attempts} attempts]" if self.attempts > 1 else ""
        return f"{self.method}: {self.code.name}{reason}: {self.message}{attempts}"


def error_of(error: Any, method: str, attempts: int = 1) -> LociError:
    """Of a grpc.RpcError that is a grpc.Call too."""
    reason, metadata = "", {}
    for detail in _details(error):
        if detail.type_url.rpartition("/")[2] == "google.rpc.ErrorInfo":
            try:
                info = _protocol.ERROR_INFO.FromString(detail.value)
            except Exception:  # noqa: BLE001 - protobuf's DecodeError; whatever stands between may have written the trailer.
                continue
            reason, metadata = info.reason, dict(info.metadata)
    return LociError(error.code(), error.details() or "", reason, metadata, method, attempts)


def trailers_of(error: Any) -> dict[str, Any]:
    """Of a grpc.RpcError; the last value of each key."""
    return {key: value for key, value in error.trailing_metadata() or ()}


def _details(error: Any) -> Any:
    data = trailers_of(error).get("grpc-status-details-bin")
    if not data:
        return ()
    try:
        return _protocol.STATUS.FromString(data).details
    except Exception:  # noqa: BLE001 - as above.
        return ()
