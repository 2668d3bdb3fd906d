"""Two `modelyard serve` processes on the loopback address: a model goes from one to the other over real HTTP."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from modelyard import Client, Yard
from modelyard.core.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from modelyard.core.events import EventType
from modelyard.marketplace import remote
from modelyard.testing.serving import YardServer


def token(place: Path, subject: str, role: str) -> str:
    with Yard(place) as yard:  # with the servers' own clock
        return yard.access.create_token(subject, role=role, created_by="root").secret


def test_a_model_goes_from_one_server_to_the_other(theirs: Yard, ours: Yard, tmp_path: Path) -> None:
    theirs.close()
    ours.close()
    ana, ben = (
        token(tmp_path / "theirs", f"{name}@example.org", role)
        for name, role in (("ana", "contributor"), ("ben", "viewer"))
    )
    root = token(tmp_path / "ours", "root@example.org", "admin")
    with (
        YardServer(tmp_path / "theirs") as there,
        YardServer(tmp_path / "ours") as here,
        Client(there.url, token=ana) as publisher,
        Client(there.url, token=ben) as reader,
        Client(here.url, token=root) as us,
    ):
        (tmp_path / "card.md").write_text("# Fraud\n")
        made = publisher.marketplace.publish(
            "fraud",
            "v1.0.0",
            licence="MIT",
            owner="ana@example.org",
            summary="Finds card fraud",
            card_path=tmp_path / "card.md",
            visibility="restricted",
        )
        (found,) = reader.marketplace.search_listings("licence = 'MIT'", "fraud").items
        assert (found.listing_id, found.published_by, found.card) == (made.listing_id, "ana@example.org", "")
        with pytest.raises(Forbidden, match="request-access"):
            reader.marketplace.pack(made.listing_id, output_path=tmp_path / "x.zip")
        request = reader.marketplace.request_access(made.listing_id, reason="benchmark")
        with pytest.raises(Forbidden):
            reader.marketplace.grant_access(request.request_id)
        publisher.marketplace.grant_access(request.request_id, days=1)
        with pytest.raises(Forbidden):
            reader.marketplace.publish("fraud", "v1.0.0", licence="MIT", owner="x", summary="x")

        # one way: a person carries the file from server to server
        reader.marketplace.pack(made.listing_id, output_path=tmp_path / "fraud.zip")
        came = us.marketplace.receive(tmp_path / "fraud.zip")
        assert (came.model, came.proved, came.publisher) == ("fraud", True, "fraud team")
        assert us.registry.get_model("fraud", "v1.0.0").stage.value == "development"
        with pytest.raises(Conflict):
            us.marketplace.receive(tmp_path / "fraud.zip")

        # the other: whoever has the yard fetches from the server
        (tmp_path / "token").write_text(ben + "\n")
        with Yard(tmp_path / "ours") as yard:
            fetched = yard.marketplace.fetch(
                there.url, made.listing_id, "root@example.org", token=f"@{tmp_path / 'token'}", version="v1.0.1"
            )
            assert fetched.digest == came.digest
            with pytest.raises(Forbidden):
                yard.marketplace.fetch(there.url, made.listing_id, "root@example.org", token="wrong")
            with pytest.raises(NotFound):
                yard.marketplace.fetch(there.url, "lst_0", "root@example.org", token=ben)
            said = [event.details for event in yard.audit.query_events(EventType.LISTING_FETCHED)]
            assert [one["as"] for one in said] == ["fraud:v1.0.0", "fraud:v1.0.1"]
            assert ben not in str(yard.audit.query_events())
        assert reader.marketplace.usage(made.listing_id).fetches == 2
        assert not hasattr(us.marketplace, "fetch")


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that answers every POST with these bytes."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_no_redirect_is_followed(ours: Yard) -> None:
    reached = []

    class Trap(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            reached.append(True)

    with socketserver.TCPServer(("127.0.0.1", 0), Trap) as trap:
        place = f"http://127.0.0.1:{trap.server_address[1]}/"
        threading.Thread(target=trap.serve_forever, daemon=True).start()
        answer = f"HTTP/1.0 302 Found\r\nLocation: {place}\r\n\r\n".encode()
        with answering(answer) as url, pytest.raises(Unavailable, match="302"):
            ours.marketplace.fetch(url, "lst_1", "root")
        trap.shutdown()
    assert not reached


def test_an_endless_answer_ends(ours: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LARGEST", 1000)
    with answering(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 5000) as url, pytest.raises(Invalid, match="larger"):
        ours.marketplace.fetch(url, "lst_1", "root")


def test_a_servers_words_are_shown_as_its_words(ours: Yard) -> None:
    with (
        answering(b"HTTP/1.0 403 no\r\n\r\n\x1b[31mtrust me\x00" + b"y" * 100_000) as url,
        pytest.raises(Forbidden) as told,
    ):
        ours.marketplace.fetch(url, "lst_1", "root")
    assert "answered 403" in str(told.value)
    assert str(told.value).isprintable()
    assert len(str(told.value)) < 700


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://x",
        "gopher://x",
        "//x",
        "http://",
        "http://u:p@x",
        "http://x/?a=b",
        "http://x/#y",
        "javascript:1",
        "",
        "http://[::1",
    ],
)
def test_only_plain_urls_of_servers_are_called(ours: Yard, url: str) -> None:
    with pytest.raises(Invalid, match="no server's URL"):
        ours.marketplace.fetch(url, "lst_1", "root")


def test_a_server_that_is_not_there_is_said_to_be_so(ours: Yard) -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        ours.marketplace.fetch("http://127.0.0.1:9", "lst_1", "root")
    with pytest.raises(Invalid, match="listing"):
        ours.marketplace.fetch("http://127.0.0.1:9", "../../x", "root")
    with pytest.raises(Invalid, match="token file"):
        ours.marketplace.fetch("http://127.0.0.1:9", "lst_1", "root", token="@/nowhere")
