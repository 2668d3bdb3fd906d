"""A real server on loopback against hostile bytes: never a 5xx, never a byte from outside, and it goes on answering."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from modelyard import Yard
from modelyard.core.canonical import dumps
from modelyard.server import guard, protocol
from modelyard.server.guard import too_deep
from modelyard.testing.serving import YardServer

OUTSIDE = "bytes that no caller may see 5f3a"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Iterator[YardServer]:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "outside.txt").write_text(OUTSIDE)
    with Yard(folder / "yard") as yard:
        yard.registry.register_model("fraud", "v1.0.0", small_model, "lightgbm", "root@example.com")
        secret = yard.access.create_token("root@example.com", role="admin", created_by="root").secret
    with YardServer(folder / "yard") as running:
        running.secret = secret  # type: ignore[attr-defined]
        yield running
        assert "Traceback" not in running.log.read_text()


def spoken(server: YardServer, data: bytes, seconds: float = 120.0) -> bytes:
    """What the server answers to raw bytes until it closes, or is silent for so long."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as link:
        answer = b""
        try:
            link.sendall(data)
            while piece := link.recv(65536):
                answer += piece
        except (ConnectionError, TimeoutError):
            pass
        return answer


def alive(server: YardServer) -> bool:
    return httpx.get(f"{server.url}/api/v1/health").status_code == 200


TRAVERSALS = [
    "../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "..%252f..%252fetc/passwd",
    "....//....//etc/passwd", "..\\..\\etc\\passwd", "..%5c..%5cetc%5cpasswd", "%c0%ae%c0%ae/etc/passwd",
    "/etc/passwd", "//proc/self/root/etc/passwd", "file:///etc/passwd", "%00", "x%00.txt", "..;/..;/etc/passwd",
    "..%2Foutside.txt", "../outside.txt", "..#/outside.txt", "..%23/outside.txt", "%2e%2e%2foutside.txt", "~root",
    "%f0%28%8c%28", "%ff%fe", "%uff0e%uff0e", "C:%5cboot.ini", "a" * 4000, "%0d%0aSet-Cookie:%20x=1",
]  # fmt: skip
PLACES = (
    "/{}", "/api/v1/{}", "/api/v1/models/{}", "/api/v1/models/{}/versions/v1.0.0", "/api/v1/models/fraud/versions/{}",
    "/api/v1/artifacts/{}", "/api/v1/runs/{}/artifacts", "/api/v1/uploads?name={}", "/api/v1/audit/proofs/{}",
    "/api/v1/resolve?reference={}", "/static/{}", "/api/2.0/mlflow/artifacts/{}",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_no_path_leads_outside(server: YardServer, place: str) -> None:
    secret = server.secret  # type: ignore[attr-defined]
    for way in TRAVERSALS:
        for method in ("GET", "DELETE") if "uploads" not in place else ("POST",):
            head = f"{method} {place.format(way)} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
            head += f"Authorization: Bearer {secret}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            answer = spoken(server, head.encode("latin-1"))
            status = int(answer.split(b" ", 2)[1])
            assert status < 500, (method, place, way, answer[:300])
            assert b"root:x:0" not in answer
            assert OUTSIDE.encode() not in answer
            assert b"Set-Cookie" not in answer.partition(b"\r\n\r\n")[0]
    assert alive(server)


FOREIGN = [
    {"Host": "evil.example"}, {"Host": "127.0.0.1.evil.example"}, {"Host": "evil.example:80"}, {"Host": ""},
    {"Host": "127.0.0.1@evil.example"}, {"Host": "localhost.evil.example:8080"}, {"Host": "[::2]:80"},
    {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "https://127.0.0.1"},
    {"Origin": "http://127.0.0.1:1"}, {"Origin": "http://localhost"}, {"Origin": "file://"},
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_foreign_hosts_and_origins_are_refused_whatever_the_method(server: YardServer, method: str) -> None:
    secret = server.secret  # type: ignore[attr-defined]
    for headers in FOREIGN:
        for path in ("/api/v1/models", "/api/v1/health", "/nothing"):
            sent = {"Authorization": f"Bearer {secret}", **headers}
            answer = httpx.request(method, server.url + path, headers=sent)
            assert answer.status_code in (400, 403), (method, path, headers, answer.status_code)


def raw(server: YardServer, head: str, body: bytes = b"", seconds: float = 120.0) -> bytes:
    told = f"{head}\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n"
    return spoken(server, told.encode("latin-1") + body, seconds)


def test_two_hosts_are_none(server: YardServer) -> None:
    answer = raw(server, f"GET /api/v1/health HTTP/1.1\r\nHost: 127.0.0.1:{server.port}", b"\r\n")
    assert answer.startswith((b"HTTP/1.1 403", b"HTTP/1.1 400"))


JSON = "Content-Type: application/json"
GARBAGE: dict[str, tuple[str, bytes]] = {
    "no HTTP": ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\r\n"),
    "HTTP/0.9": ("GET /", b"\r\n"),
    "HTTP/9.9": ("GET / HTTP/9.9", b"\r\n"),
    "unknown method": ("BREW /api/v1/models HTTP/1.1", b"\r\n"),
    "CONNECT": ("CONNECT evil.example:80 HTTP/1.1", b"\r\n"),
    "asterisk": ("OPTIONS * HTTP/1.1", b"\r\n"),
    "absolute target": ("GET http://evil.example/api/v1/health HTTP/1.1", b"\r\n"),
    "upgrade": ("GET /api/v1/models HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade", b"\r\n"),
    "bare line feeds": ("GET /api/v1/health HTTP/1.1\nX: y", b"\n"),
    "header without colon": ("GET /api/v1/health HTTP/1.1\r\nnothing", b"\r\n"),
    "header with zero byte": ("GET /api/v1/health HTTP/1.1\r\nX: a\x00b", b"\r\n"),
    "folded header": ("GET /api/v1/health HTTP/1.1\r\nX: a\r\n b", b"\r\n"),
    "two lengths": ("POST /api/v1/ab-tests HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3", b"\r\n{}x"),
    "length and chunks": (
        "POST /api/v1/ab-tests HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked",
        b"\r\n0\r\n\r\n",
    ),
    "negative length": ("POST /api/v1/ab-tests HTTP/1.1\r\nContent-Length: -1", b"\r\n{}"),
    "endless length": (f"POST /api/v1/ab-tests HTTP/1.1\r\n{JSON}\r\nContent-Length: 99999999999999", b"\r\n{}"),
    "body cut short": (f"POST /api/v1/ab-tests HTTP/1.1\r\n{JSON}\r\nContent-Length: 500", b"\r\n{"),
    "chunk of no size": (
        f"POST /api/v1/ab-tests HTTP/1.1\r\n{JSON}\r\nTransfer-Encoding: chunked",
        b"\r\nzz\r\n{}\r\n",
    ),
    "chunk too large": (
        f"POST /api/v1/ab-tests HTTP/1.1\r\n{JSON}\r\nTransfer-Encoding: chunked",
        b"\r\nffffffffffffffffff\r\n{}\r\n",
    ),
    "chunks cut short": (f"POST /api/v1/ab-tests HTTP/1.1\r\n{JSON}\r\nTransfer-Encoding: chunked", b"\r\n5\r\n{}"),
    "encoding twice": (
        f"POST /api/v1/ab-tests HTTP/1.1\r\n{JSON}\r\nTransfer-Encoding: gzip, chunked",
        b"\r\n0\r\n\r\n",
    ),
    "many headers": ("GET /api/v1/health HTTP/1.1\r\n" + "\r\n".join(f"X-{n}: y" for n in range(500)), b"\r\n"),
    "huge header": ("GET /api/v1/health HTTP/1.1\r\nX: " + "y" * 2_000_000, b"\r\n"),
    "huge target": ("GET /" + "y" * 200_000 + " HTTP/1.1", b"\r\n"),
    "huge query": ("GET /api/v1/models?x=" + "y" * 50_000 + " HTTP/1.1", b"\r\n"),
    "endless header": ("GET /api/v1/health HTTP/1.1\r\nX: " + "y" * 300_000, b""),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_answered_with_a_refusal_or_a_closed_door(server: YardServer, name: str) -> None:
    head, body = GARBAGE[name]
    answer = raw(server, head, body, 2.0)  # of some it awaits more
    if answer:
        assert answer.startswith(b"HTTP/1."), answer[:100]
        assert int(answer.split(b" ", 2)[1]) < 500, answer[:200]
    assert alive(server)


BODIES = {
    "deep lists": b"[" * 200_000,
    "deep lists, closed": b"[" * 200_000 + b"]" * 200_000,
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "deep in a field": b'{"name": ' + b"[" * 1_000 + b"]" * 1_000 + b"}",
    "a long number": b'{"name": ' + b"9" * 100_000 + b"}",
    "a long exponent": b'{"name": 1e' + b"9" * 1_000 + b"}",
    "UTF-16": '{"name": "x"}'.encode("utf-16"),
    "not UTF-8": b'{"name": "\xff\xfe"}',
    "half a pair": b'{"name": "\\ud800"}',
    "many keys": dumps({str(n): n for n in range(20_000)}).encode(),
    "one key twice": b'{"name": "a", "name": "b"}',
    "a list": b"[]",
    "nothing": b"",
    "two values": b"{} {}",
    "a comment": b"{} // x",
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("path", ["/api/v1/ab-tests", "/api/v1/login", "/api/v1/features/cards/values"])
def test_hostile_json_is_a_422(server: YardServer, name: str, path: str) -> None:
    secret = server.secret  # type: ignore[attr-defined]
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
    answer = httpx.post(server.url + path, content=BODIES[name], headers=headers)
    assert answer.status_code == 422, (answer.status_code, answer.text[:200])
    assert set(answer.json()["error"]) == {"code", "message"}


def test_a_body_larger_than_the_limit_is_refused_before_it_is_read(server: YardServer) -> None:
    size = guard.LARGEST_JSON + 1
    head = f"POST /api/v1/ab-tests HTTP/1.1\r\n{JSON}\r\nContent-Length: {size}"
    assert raw(server, head, b"\r\n").startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/vnd.x+json"])
def test_no_kind_of_body_is_taken_from_strangers_without_a_limit(server: YardServer, kind: str) -> None:
    size = guard.LARGEST_JSON + 1
    head = f"POST /api/v1/ab-tests HTTP/1.1\r\nContent-Type: {kind}\r\nContent-Length: {size}"
    assert raw(server, head, b"\r\n").startswith(b"HTTP/1.1 413")
    chunked = f"POST /api/v1/ab-tests HTTP/1.1\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked"
    piece = b"1000000\r\n" + b" " * 0x1000000 + b"\r\n"
    answer = raw(server, chunked, b"\r\n" + piece * 3 + b"0\r\n\r\n")
    assert not answer or answer.startswith(b"HTTP/1.1 413")


def test_bodies_are_bounded_all_together() -> None:
    async def ask(bodies: guard.Bodies, size: int, waits: asyncio.Event) -> Any:
        sent = [{"type": "http.request", "body": b" " * size, "more_body": True}]

        async def receive() -> Any:
            if sent:
                return sent.pop()
            await waits.wait()
            return {"type": "http.request", "body": b"", "more_body": False}

        return await bodies.read({b"transfer-encoding": b"chunked"}, receive)

    async def run() -> tuple[int, int]:
        bodies, waits = guard.Bodies(), asyncio.Event()
        tasks = [asyncio.create_task(ask(bodies, guard.LARGEST_JSON, waits)) for _ in range(9)]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        refused = len(done)
        waits.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        return refused, bodies._held

    assert asyncio.run(run()) == (1, 0)


def test_a_file_is_a_file_even_if_it_is_json(server: YardServer) -> None:
    secret = server.secret  # type: ignore[attr-defined]
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
    deep = b"[" * 1000 + b"]" * 1000
    answer = httpx.post(f"{server.url}/api/v1/uploads", params={"name": "a.json"}, content=deep, headers=headers)
    assert answer.status_code == 201


def test_other_kinds_of_bodies_are_no_json(server: YardServer) -> None:
    secret = server.secret  # type: ignore[attr-defined]
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=" + "x" * 5000):
        headers = {"Authorization": f"Bearer {secret}", "Content-Type": kind}
        answer = httpx.post(f"{server.url}/api/v1/ab-tests", content=b'{"name": "t"}', headers=headers)
        assert answer.status_code == 422
        assert "application/json" in answer.json()["error"]["message"]


def test_every_answer_says_how_browsers_are_to_treat_it(server: YardServer) -> None:
    for path in ("/api/v1/health", "/api/v1/nothing", "/api/v1/models"):
        headers = httpx.get(server.url + path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; frame-ancestors 'none'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers
        assert "strict-transport-security" not in headers
        assert "access-control-allow-origin" not in headers


def test_strangers_are_counted_and_slowed_down_and_do_not_fill_the_log(tmp_path: Path) -> None:
    with Yard(tmp_path / "yard") as yard:
        secret = yard.access.create_token("root@example.com", role="admin", created_by="root").secret
    with YardServer(tmp_path / "yard") as server, httpx.Client(base_url=server.url) as client:
        statuses = [client.get("/api/v1/models").status_code for _ in range(150)]
        assert set(statuses) == {401, 429}
        good = {"Authorization": f"Bearer {secret}"}
        assert client.get("/api/v1/models", headers=good).status_code == 200, "who is known is not kept out by others"
        events = client.get("/api/v1/audit/events", headers=good, params={"by": "unknown"}).json()
        assert len(events) == 1


def test_a_head_that_does_not_come_is_not_waited_for(server: YardServer) -> None:
    """Not before the server's own ten seconds, in three connections at once."""
    began = time.monotonic()
    links = [socket.create_connection(("127.0.0.1", server.port), timeout=120) for _ in range(3)]
    for link, sent in zip(links, (b"", b"GET /api/v1/health HT", b"GET /api/v1/health HTTP/1.1\r\nX: "), strict=True):
        link.sendall(sent)
    for link in links:
        with link:
            assert link.recv(100) == b""
    assert time.monotonic() - began > protocol.HEAD_S - 1
    assert alive(server)


@pytest.mark.parametrize(
    ("body", "deep"),
    [
        (b"[" * 64 + b"]" * 64, False),
        (b"[" * 65 + b"]" * 65, True),
        (b'[{"a":' * 32 + b"1" + b"}]" * 32, False),
        (b'[{"a":' * 33 + b"1" + b"}]" * 33, True),
        (b"[" * 65, True),
        (b'"' + b"[" * 500 + b'"', False),
        (b'"\\"' + b"[" * 500 + b'"', False),
        (b'"\\\\"' + b"[" * 500, True),
        (b"[" + b"{}," * 100_000 + b"{}]", False),
        (b"", False),
    ],
)
def test_depth_is_told_without_parsing(body: bytes, deep: bool) -> None:
    assert too_deep(body) == deep


def authority(name: str) -> tuple[Any, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    return key, signed(key, name, key.public_key(), name, ca=True)


def signed(key: Any, issuer: str, public: Any, subject: str, *, ca: bool = False, mail: str = "") -> Any:
    now = datetime.now(UTC)
    names = [x509.RFC822Name(mail)] if mail else [x509.DNSName("localhost")]
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    return made.sign(key, hashes.SHA256())


def kept(folder: Path, name: str, certificate: Any, key: Any) -> tuple[Path, Path]:
    pem, secret = folder / f"{name}.pem", folder / f"{name}.key"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    secret.write_bytes(key.private_bytes(*form))
    return pem, secret


def test_callers_show_certificates_where_an_authority_is_named(tmp_path: Path) -> None:
    root, root_certificate = authority("root")
    evil, _ = authority("evil")
    ca, _ = kept(tmp_path, "ca", root_certificate, root)
    pairs = {}
    for name, key, issuer in (
        ("server", root, "root"),
        ("ann", root, "root"),
        ("eve", root, "root"),
        ("mallory", evil, "evil"),
    ):
        own = ec.generate_private_key(ec.SECP256R1())
        mail = "" if name == "server" else f"{name if name != 'mallory' else 'ann'}@example.com"
        pairs[name] = kept(tmp_path, name, signed(key, issuer, own.public_key(), name, mail=mail), own)
    with Yard(tmp_path / "yard") as yard:
        yard.access.grant_role("ann@example.com", "viewer", created_by="root")
        yard.access.create_token("root", role="admin", created_by="root")
    arguments = ["--tls-cert", str(pairs["server"][0]), "--tls-key", str(pairs["server"][1]), "--client-ca", str(ca)]

    def ask(name: str | None, path: str = "/api/v1/models") -> httpx.Response:
        context = ssl.create_default_context(cafile=str(ca))
        if name:
            context.load_cert_chain(*map(str, pairs[name]))
        with httpx.Client(verify=context) as client:
            return client.get(f"https://localhost:{port}{path}")

    with YardServer(tmp_path / "yard", *arguments) as server:
        port = server.port
        answer = ask("ann")
        assert answer.status_code == 200
        assert "strict-transport-security" in answer.headers
        assert ask("ann", "/api/v1/identity").json()["subject"] == "ann@example.com"
        assert ask("eve").status_code == 401, "signed, and known to nobody here"
        for stranger in (None, "mallory"):
            with pytest.raises(httpx.TransportError):
                ask(stranger)
