"""Checkpoints in an S3 bucket, with object lock too, and at an https address with an authority of its own."""

from __future__ import annotations

import datetime
import hashlib
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from modelyard.audit import AuditLogger, EventType
from modelyard.audit.copies import copies_at
from modelyard.core.errors import NotFound, Unavailable
from modelyard.core.instants import FixedClock
from modelyard.storage.objects import ObjectBlobs

SIGNED = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x"
LOCK = b"""<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>
<Mode>COMPLIANCE</Mode><Days>30</Days></DefaultRetention></Rule></ObjectLockConfiguration>"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def tell(logger: AuditLogger, clock: FixedClock, target: str) -> None:
    logger.log_model_deployment("m", "v1", "bob")
    clock.advance(60)
    logger.integrate()
    assert logger.copy_checkpoints() == 1, logger.query_events(EventType.CHECKPOINT_COPIED)


def test_checkpoints_lie_in_a_bucket_and_show_a_log_that_was_cut(
    logger: AuditLogger, clock: FixedClock, bucket: str, tmp_path: Path
) -> None:
    logger.add_witness(bucket, user="ana")
    for _ in range(3):
        tell(logger, clock, bucket)
    assert len(copies_at(bucket)) == 3
    assert copies_at(bucket)[-1] == logger.checkpoint()
    assert logger.copy_checkpoints() == 0
    key = tmp_path / "kept.pub"
    key.write_bytes(logger.keys.public_file.read_bytes())
    assert logger.verify(against=bucket, public_key_path=key).against == 4
    with logger.store.work() as work:
        work.rows.run("UPDATE events SET actor = 'mallory' WHERE position = 2")
        for table in ("audit_checkpoints", "audit_leaves", "audit_blocks"):
            work.rows.run(f"DELETE FROM {table}")
    logger.integrate()
    assert logger.verify().ok
    assert "rewritten" in logger.verify(against=bucket, public_key_path=key).problems[0]


def test_a_bucket_without_checkpoints_and_one_that_is_not_there_are_told(
    logger: AuditLogger, bucket: str, clock: FixedClock
) -> None:
    logger.integrate()
    with pytest.raises(NotFound, match="no checkpoints in s3://"):
        logger.verify(against=bucket)
    logger.add_witness("s3://no-such-bucket-here/x", user="ana")
    logger.integrate()
    assert logger.copy_checkpoints() == 0
    (event,) = logger.query_events(EventType.CHECKPOINT_COPIED)
    assert "no-such-bucket-here" in event.details["error"]


def asked(url: str, method: str, body: bytes | None = None, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named |= {"Authorization": SIGNED, "Content-Type": "application/xml"}
    with urllib.request.urlopen(urllib.request.Request(url, body, named, method=method)) as answer:
        return answer.headers


class Naming(BaseHTTPRequestHandler):
    """S3 as it says it is: "Content-MD5 OR x-amz-checksum- HTTP header is required" for a locked bucket. The server behind
    wants the name of the checksum in a header that SDKs send beside it."""

    behind: str

    def do_PUT(self) -> None:
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        if "x-amz-checksum-sha256" in self.headers:
            headers |= {"x-amz-sdk-checksum-algorithm": "SHA256", "Content-Type": "application/octet-stream"}
        body = self.rfile.read(int(self.headers["Content-Length"]))
        request = urllib.request.Request(self.behind + self.path, body, headers, method="PUT")
        try:
            with urllib.request.urlopen(request) as answer:
                self.send_response(answer.status)
                self.send_header("ETag", answer.headers["ETag"])
        except urllib.error.HTTPError as error:
            self.send_response(error.code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def naming(s3_server: str) -> Iterator[str]:
    with serving(HTTPServer(("127.0.0.1", 0), type("Handler", (Naming,), {"behind": s3_server}))) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def serving(server: HTTPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_locked_bucket_keeps_each_checkpoint_for_its_time(
    logger: AuditLogger, clock: FixedClock, bucket: str, s3_server: str, naming: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"locked{hashlib.sha256(bucket.encode()).hexdigest()[:12]}"
    asked(f"{s3_server}/{name}", "PUT", x_amz_bucket_object_lock_enabled="true")
    asked(f"{s3_server}/{name}?object-lock", "PUT", LOCK)
    target = f"s3://{name}/prod"
    logger.add_witness(target, user="ana")
    with monkeypatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL", naming)
        tell(logger, clock, target)
    (place,) = ObjectBlobs(target).keys()
    head = asked(f"{s3_server}/{name}/prod/{place}", "HEAD")
    assert head["x-amz-object-lock-mode"] == "COMPLIANCE"
    version = head["x-amz-version-id"]
    with pytest.raises(urllib.error.HTTPError, match="403"):
        asked(f"{s3_server}/{name}/prod/{place}?versionId={version}", "DELETE")
    assert copies_at(target) == [logger.checkpoint()]


# https


def signed(name: str, by: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None, **own: x509.ExtensionType) -> Any:
    """(certificate, its key, its name), signed by an authority or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, signer = by or (subject, key)
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    for extension in own.values():
        made = made.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
    return made.sign(signer, hashes.SHA256()), key, subject


@pytest.fixture
def authority(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    """An authority's certificate, and a server's context with one for localhost that it signed."""
    ca, ca_key, ca_name = signed("our authority", None, ca=x509.BasicConstraints(ca=True, path_length=None))
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    leaf, key, _ = signed("localhost", (ca_name, ca_key), names=names)
    (tmp_path / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "server.pem").write_bytes(private + leaf.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    return tmp_path / "ca.pem", context


class Taking:
    """Takes checkpoints, and answers with a status."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.status, self.taken = 200, []  # type: int, list[tuple[str, str, str]]

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:
                body = handler.rfile.read(int(handler.headers["Content-Length"])).decode()
                self.taken.append((handler.path, handler.headers["X-Checkpoint-Name"], body))
                handler.send_response(self.status)
                handler.send_header("Location", "https://localhost:1/elsewhere")
                handler.send_header("Content-Length", "0")
                handler.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        class Quiet(HTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://localhost:{self.server.server_port}/checkpoints"


@pytest.fixture
def taking(authority: tuple[Path, ssl.SSLContext]) -> Iterator[Taking]:
    found = Taking(authority[1])
    with serving(found.server):
        yield found


def test_a_checkpoint_is_posted_to_an_address_whose_authority_is_known(
    logger: AuditLogger, clock: FixedClock, taking: Taking, authority: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[0]))
    logger.add_witness(taking.url, user="ana")
    tell(logger, clock, taking.url)
    ((path, name, body),) = taking.taken
    assert (path, body) == ("/checkpoints", logger.checkpoint())
    assert name.startswith("00000000000000000002-")


def test_an_unknown_authority_and_another_name_get_no_checkpoint(
    logger: AuditLogger, taking: Taking, authority: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger.add_witness(taking.url, user="ana")
    logger.add_witness(taking.url.replace("localhost", "127.0.0.1"), user="ana")
    logger.integrate()
    assert logger.copy_checkpoints() == 0
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[0]))
    logger.store.clock.advance(600)  # type: ignore[attr-defined]
    logger.integrate()
    assert logger.copy_checkpoints() == 1, "the name that the certificate has"
    errors = [str(event.details.get("error")) for event in logger.query_events(EventType.CHECKPOINT_COPIED)]
    assert sum("certificate verify failed" in error for error in errors) == 2
    assert len(taking.taken) == 1


@pytest.mark.parametrize("status", [302, 307, 404, 500])
def test_any_other_answer_is_told_and_no_redirect_is_followed(
    logger: AuditLogger, taking: Taking, authority: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    from modelyard.audit import copies

    monkeypatch.setenv("SSL_CERT_FILE", str(authority[0]))
    taking.status = status
    with pytest.raises(Unavailable, match=f"answers {status}"):
        copies.copy(taking.url, "name", "note")
    assert len(taking.taken) == 1
