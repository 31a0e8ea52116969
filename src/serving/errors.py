"""What a client is told when its request cannot be answered."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """A refusal: HTTP ``status``, a ``message`` that says why, a short ``code``, and the ``param`` at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str = "invalid_request",
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The body of the response, in OpenAI's form."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
