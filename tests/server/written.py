"""What the server's loggers write, in both forms."""

from __future__ import annotations

import io
import json
from typing import Any

from server.observe.logs import Format

FORMS: tuple[Format, ...] = ("console", "json")


class Written:
    """What handlers of both forms have written."""

    def __init__(self) -> None:
        self.streams = {form: io.StringIO() for form in FORMS}

    def lines(self, form: Format) -> list[str]:
        text = self.streams[form].getvalue()
        assert text.endswith("\n") or not text
        return text.split("\n")[:-1]

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines("json")]

    def access(self) -> list[dict[str, Any]]:
        return [one for one in self.records if one["logger"] == "rheostat.access"]
