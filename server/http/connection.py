"""One connection of the web server: what a client may send, and how long, before it is a request.

Uvicorn waits for ever for a head that has begun, and keeps any number of header fields. Here time,
bytes and fields of a head are limited.

What is no request is answered as one that has a fault: its scope has the error in its state, under
`heads.FAULT`, and `server.http.middleware` raises it. So it is answered in its turn, logged and
counted.
"""

from __future__ import annotations

from asyncio import BaseTransport, Event, TimerHandle
from time import perf_counter
from typing import ClassVar

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from server.errors import (
    HeadTooLargeError,
    MalformedRequestError,
    RequestTimeoutError,
    RheostatError,
)
from server.http.heads import FAULT, WHOLE, Limits, read_head
from server.http.leaving import LEAVING, Leaving
from server.http.pacing import PIECE, Joined, LastWords, Paced
from server.http.starting import Starter
from server.observe.arrival import ARRIVED, BEHIND


class Connection(Paced):
    """Uvicorn's protocol with limits.

    There is one timer, set while no request is under way and bytes are awaited. A request that
    arrives in one piece sets none. `server.http.middleware` limits
    bodies, uvicorn idle connections.
    """

    limits: ClassVar[Limits]
    starter: ClassVar[Starter]
    _timer: TimerHandle | None = None
    _is_in_message = False
    _is_in_head = False
    _is_ignoring = False  # see `_read_on`
    _is_counted_anew = False  # a head or a message has ended in the piece at hand
    _num_framing = 0  # bytes beside content, since a head or a message ended
    _num_content = 0  # of the body at hand
    _num_in_piece = 0  # bytes of content
    _content_left = 0  # where the head says how long the body is
    _is_chunked = False
    _fault: RheostatError | None = None
    _leaving: Leaving

    def connection_made(self, transport: BaseTransport) -> None:
        """Wait for the first request."""
        super().connection_made(transport)
        self.headers = []
        self._leaving = Leaving(self.flow.resume_reading)
        self._set_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._unset_timer()
        super().connection_lost(exc)
        self._leaving.leave()

    def on_message_begin(self) -> None:
        """Begin a head."""
        if not self._is_ignoring:
            self._is_in_head = self._is_in_message = True
            super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Begin a request."""
        if self._is_ignoring:
            return
        self._check_fields()
        try:
            head = read_head(self.headers, self.parser.get_http_version(), self.url)
        except MalformedRequestError as error:
            self._fault = error
            raise
        super().on_headers_complete()
        assert self.cycle is not None, "it has just been made"
        self.cycle.transport = Joined(self.transport)  # type: ignore[assignment]
        self.scope["state"][LEAVING] = self._leaving
        self.headers = []  # those that come now are trailers, which nobody reads
        self._is_in_head = False
        self._unset_timer()
        self._is_counted_anew = True
        self._num_content = self._num_in_piece = 0
        self._content_left, self._is_chunked = head

    def on_body(self, body: bytes) -> None:
        """Take content."""
        self._num_in_piece += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request; one that offers another protocol ends too early for the parser."""
        if (self._content_left or self._is_chunked) and self.parser.should_upgrade():
            return
        self._check_fields()
        self._is_in_message = False
        self._is_counted_anew = True
        self._content_left = self._num_content = 0
        super().on_message_complete()
        if self.cycle is not None:
            self.cycle.scope["state"] |= {WHOLE: True, ARRIVED: perf_counter()}
        if self.cycle is not None and not self.cycle.keep_alive:
            self._is_deaf = True  # the connection ends with the answer

    def on_response_complete(self) -> None:
        """Go on to the next request; its head may have begun meanwhile."""
        super().on_response_complete()
        if self._is_in_head:
            self._turn_ended()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Begin to answer a request when it is its turn."""
        begin = super()._start_asgi_task

        def begin_now() -> None:
            cycle.scope["state"][BEHIND] = len(self.starter)
            begin(cycle, app)

        self.starter.put(begin_now, self.loop)

    def _room(self) -> int:
        """Return how many bytes may be parsed next; 0 if a limit is reached."""
        if self._content_left and not self._is_in_head:
            return self._content_left
        allowed = self.limits.max_head_bytes + self._num_content - self._num_framing
        return max(0, min(PIECE, allowed))

    def _parse(self, piece: bytes | memoryview) -> int:
        """Parse some bytes, and return how many of them were."""
        self._num_in_piece, self._is_counted_anew, num_parsed = 0, False, len(piece)
        fault = None
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as offer:
            num_parsed = offer.args[0]
            self._read_on()
        except httptools.HttpParserError as error:
            fault = self._fault or MalformedRequestError(f"this is not HTTP/1.1: {error}")
        if len(self.headers) > self.limits.max_head_fields:
            fault = self._too_many_fields()
        if fault is not None:
            self._refuse(fault)
        if self._is_counted_anew:  # the part of the piece before that is not known
            self._num_framing = 0
        else:
            self._num_framing += num_parsed - self._num_in_piece
            self._num_content += self._num_in_piece
        if self._content_left:
            self._content_left -= self._num_in_piece
        return num_parsed

    def _check_fields(self) -> None:
        """Stop the parser, which raises an exception of its own, where there are too many."""
        if len(self.headers) > self.limits.max_head_fields:
            self._fault = self._too_many_fields()
            raise self._fault

    def _too_many_fields(self) -> HeadTooLargeError:
        part, most = "head" if self._is_in_head else "trailer", self.limits.max_head_fields
        return HeadTooLargeError(f"the {part} has more than {most} fields (max_head_fields)")

    def _read_on(self) -> None:
        """Decline another protocol: read the request's body, and what follows, as HTTP/1.1."""
        self.parser = httptools.HttpRequestParser(self)
        if not self._is_in_message:
            return
        framing = b"transfer-encoding: chunked"
        if self._content_left:
            framing = b"content-length: %d" % self._content_left
        self._is_ignoring = True  # the head has been taken
        self.parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")
        self.headers.clear()
        self._is_ignoring = False

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _turn_ended(self) -> None:
        """Await the rest of a head that has begun.

        What is left of a body that was answered before it was read, and blank lines, count alike.
        """
        if self._timer is None and self._is_idle and not self._is_deaf:
            self._set_timer()

    def _set_timer(self) -> None:
        self._timer = self.loop.call_later(self.limits.read_timeout_s, self._give_up)

    def _unset_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self._is_in_head:  # else an answer would be taken for that of a request to come
            self._refuse(RequestTimeoutError.of("head", self.limits.read_timeout_s))
        else:
            self.transport.close()

    def _give_in(self) -> None:
        """Refuse what exceeds the limit in bytes."""
        most = f"{self.limits.max_head_bytes} bytes (max_head_bytes)"
        if self._is_in_head:
            self._refuse(HeadTooLargeError(f"the head exceeds {most}"))
        elif self._is_in_message:
            self._refuse(HeadTooLargeError(f"what is not content exceeds the content by {most}"))
        else:  # blank lines; an answer would be taken for that of a request to come
            self._is_deaf = True
            if self.cycle is None or self._is_idle:
                self.transport.close()
            else:
                self.cycle.keep_alive = False

    def _refuse(self, error: RheostatError) -> None:
        """Answer what is no request, after those before it, and end the connection."""
        self._unset_timer()
        self._is_deaf = True
        cycle = self.cycle
        if self._is_in_message and not self._is_in_head and cycle is not None:  # a broken body
            if cycle.response_complete:
                self._linger()
                return
            cycle.transport = LastWords(cycle.transport, self._linger)  # type: ignore[assignment]
            cycle.keep_alive = False
        else:
            cycle = self._begin_nothing()
        cycle.scope["state"][FAULT] = error
        cycle.message_event.set()  # for whoever waits for the rest of the body

    def _begin_nothing(self) -> RequestResponseCycle:
        """Begin what stands for a request, of which nothing is known but the fields so far."""
        is_idle = self._is_idle
        if not self._is_in_message:
            super().on_message_begin()
        self.scope |= {"method": "-", "path": "-", "raw_path": b"-", "query_string": b""}
        cycle = RequestResponseCycle(
            scope=self.scope,
            transport=LastWords(self.transport, self._linger),  # type: ignore[arg-type]
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=Event(),
            expect_100_continue=False,
            keep_alive=False,
            on_response=self.on_response_complete,
        )
        self.cycle = cycle
        if is_idle:
            self._start_asgi_task(cycle, self.app)
        else:
            self.pipeline.appendleft((cycle, self.app))
        return cycle


def limited(limits: Limits) -> type[Connection]:
    """Return the class of connections with limits; uvicorn passes no arguments of ours."""

    class Limited(Connection):
        pass

    Limited.limits = limits
    Limited.starter = Starter()
    return Limited
