"""Webhooks reach public addresses by https, and nothing else unless an operator lists it."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from receiving import Opening, Receiver, happen

from modelyard.core.errors import Invalid
from modelyard.webhooks import Round, Webhooks, sending
from modelyard.webhooks.rules import AllowList, standing, why_not
from modelyard.webhooks.targets import target

NAME = "hooks.example.test"


def at(*addresses: str):
    return lambda host, port: list(addresses)


@pytest.mark.parametrize(
    "address",
    [
        *("10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "127.0.0.1", "127.9.9.9", "0.0.0.0", "100.64.0.1"),
        *(
            "169.254.169.254",
            "169.254.0.1",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "224.0.0.1",
            "239.1.1.1",
        ),
        *("240.0.0.1", "255.255.255.255", "198.18.0.1", "203.0.113.9", "192.88.99.1"),
        *(
            "::",
            "::1",
            "fe80::1",
            "fe80::1%eth0",
            "fc00::1",
            "fd12::1",
            "fd00:ec2::254",
            "ff02::1",
            "ff0e::1",
            "fec0::1",
        ),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1"),
        *(
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2001:0:1::1",
            "2001:db8::1",
            "5f00::1",
        ),
    ],
)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    with pytest.raises(Invalid, match=r"Webhook URL refused: hooks\.example\.test resolves to"):
        target(f"https://{NAME}/hook", AllowList(), at(address))
    with pytest.raises(Invalid):
        target(f"https://{NAME}/hook", AllowList(), at("1.1.1.1", address))  # one of several is enough


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700::1", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_a_public_address_is_taken_by_https_alone(address: str) -> None:
    assert target(f"https://{NAME}/hook", AllowList(), at(address)).addresses == (address,)
    with pytest.raises(Invalid, match="in the clear"):
        target(f"http://{NAME}/hook", AllowList.parse(f"{NAME}, 0.0.0.0/0, ::/0"), at(address))


@given(st.ip_addresses())
def test_what_is_public_here_is_public_to_the_standard_library_too(address) -> None:
    if standing(address) == "public":
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_link_local


@given(st.ip_addresses(v=4))
def test_no_listing_reaches_metadata_services_or_link_local_addresses(address) -> None:
    if address.is_link_local or address.is_multicast or address.is_unspecified or address.is_reserved:
        assert why_not("https", NAME, address, AllowList.parse(f"{NAME},0.0.0.0/0"))


def test_listed_hosts_and_networks_may_be_private() -> None:
    by_name, by_network = AllowList.parse("Hooks.Example.test"), AllowList.parse("10.1.0.0/16, fd00::/8")
    assert target(f"https://{NAME}./hook", by_name, at("10.1.2.3")).addresses
    assert target("https://other.test/hook", by_network, at("10.1.2.3", "fd00::1", "::ffff:10.1.2.3")).addresses
    for bad in ("10.2.0.1", "127.0.0.1"):
        with pytest.raises(Invalid, match="webhook_hosts"):
            target("https://other.test/hook", by_network, at(bad))
    with pytest.raises(Invalid, match="in the clear"):
        target("http://other.test/hook", by_network, at("10.1.2.3"))
    for bad in ("169.254.169.254", "fe80::1"):
        with pytest.raises(Invalid, match="no webhook may reach"):
            target(f"https://{NAME}/hook", by_name, at(bad))
    with pytest.raises(Invalid, match=r"webhook_hosts has '10\.0\.0\.0/99'"):
        AllowList.parse("10.0.0.0/99")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "cannot be empty or just whitespace"),
        ("   ", "cannot be empty or just whitespace"),
        ("hooks.example.test/hook", "Invalid webhook URL scheme"),
        ("ftp://hooks.example.test/", "Invalid webhook URL scheme: 'ftp'"),
        ("file:///etc/passwd", "Invalid webhook URL scheme: 'file'"),
        ("gopher://127.0.0.1:6379/_FLUSHALL", "Invalid webhook URL scheme"),
        ("https://", "must include a hostname"),
        ("https:///path", "must include a hostname"),
        ("https://user:password@hooks.example.test/", "must not hold a user"),
        ("https://hooks.example.test:99999/", "Invalid webhook URL"),
        ("https://hooks.example.test:0/", "no such host or port"),
        ("https://hooks.example.test/\r\nX-Evil: 1", "Invalid webhook URL"),
        ("https://[::1/", "Invalid webhook URL"),
        ("https://[::g]/", "Invalid webhook URL"),
        ("https://[fe80::1%25eth0]/", "Webhook URL refused"),
        ("https://hooks.example.test\\@127.0.0.1/", "Invalid webhook URL"),
        ("https://hooks%2eexample.test/", "Invalid webhook URL"),
        ("https://h\u00f6oks.example.test/", "punycode"),
        ("https://hooks..example.test/", "Invalid webhook URL"),
        ("https://@hooks.example.test/", "must not hold a user"),
        (" https://hooks.example.test/", "Invalid webhook URL"),
        ("https://" + "a" * 3000, "longer than"),
    ],
)
def test_a_malformed_url_is_refused_and_says_why(webhooks: Webhooks, url: str, words: str) -> None:
    with pytest.raises(Invalid, match=words) as told:
        webhooks.create_webhook("chat", url, ["stage_changed"])
    assert "password" not in str(told.value).replace("a password", "")
    assert webhooks.list_webhooks().items == ()


@pytest.mark.parametrize(
    "host", ["127.1", "2130706433", "0x7f.0.0.1", "0177.0.0.1", "localhost", "[::1]", "[::ffff:7f00:1]"]
)
def test_loopback_in_every_spelling_is_refused(opened: Opening, folder, host: str) -> None:
    """By the machine's own resolver, which needs no network for these."""
    with pytest.raises(Invalid):
        opened(folder, hosts="").create_webhook("chat", f"https://{host}/hook", ["stage_changed"])


def test_a_name_that_does_not_resolve_is_refused(opened: Opening, folder) -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(Invalid, match="cannot be resolved"):
        opened(folder, resolve=unknown).create_webhook("chat", f"https://{NAME}/hook", ["stage_changed"])
    with pytest.raises(Invalid, match="has no address"):
        opened(folder, resolve=at()).create_webhook("chat", f"https://{NAME}/hook", ["stage_changed"])


def test_a_name_that_leads_elsewhere_later_is_not_called(opened: Opening, folder, receiver: Receiver) -> None:
    """DNS rebinding: good when the webhook is made, the receiver's own loopback address when it is sent to."""
    answers = [["1.1.1.1"], ["127.0.0.1"]]
    webhooks = opened(folder, hosts="", resolve=lambda host, port: answers.pop(0))
    hook = webhooks.create_webhook("chat", f"https://{NAME}:{receiver.port}/hook", ["stage_changed"])
    happen(webhooks)
    assert webhooks.deliver() == Round(collected=1, failed=1)
    assert receiver.requests == []
    assert answers == []
    assert "not public" in webhooks.get_webhook(hook.webhook_id).last_error


def test_the_connection_goes_to_the_address_that_was_checked(opened: Opening, folder, receiver: Receiver) -> None:
    """The name exists for the given resolver alone, which is asked once for the check and never again to connect."""
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    webhooks = opened(folder, resolve=resolve)
    webhooks.create_webhook("chat", f"http://{NAME}:{receiver.port}/hook?x=1", ["stage_changed"])
    happen(webhooks)
    asked.clear()
    assert webhooks.deliver() == Round(collected=1, delivered=1)
    assert asked == [NAME]
    (request,) = receiver.requests
    assert (request.headers["host"], request.path) == (f"{NAME}:{receiver.port}", "/hook?x=1")


def test_the_next_address_is_tried_where_one_does_not_answer(opened: Opening, folder, receiver: Receiver) -> None:
    webhooks = opened(folder, hosts="127.0.0.0/8, ::1", resolve=at("::1", "127.0.0.9", "127.0.0.1"))
    webhooks.create_webhook("chat", f"http://{NAME}:{receiver.port}/hook", ["stage_changed"])
    happen(webhooks)
    assert webhooks.deliver() == Round(collected=1, delivered=1)


def test_a_redirect_is_not_followed(webhooks: Webhooks, receiver: Receiver) -> None:
    hook = webhooks.create_webhook("chat", receiver.url, ["stage_changed"])
    happen(webhooks)
    receiver.answer(302, Location=f"http://127.0.0.1:{receiver.port}/admin")
    assert webhooks.deliver() == Round(collected=1, failed=1)
    assert [request.path for request in receiver.requests] == ["/hook"]
    assert "redirects are not followed" in webhooks.get_webhook(hook.webhook_id).last_error


def test_a_proxy_in_the_environment_is_passed_by(webhooks: Webhooks, receiver: Receiver, monkeypatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    webhooks.create_webhook("chat", receiver.url, ["stage_changed"])
    happen(webhooks)
    assert webhooks.deliver() == Round(collected=1, delivered=1)


@pytest.fixture
def speaking() -> Iterator[list[bytes]]:
    """A server that says what is in the list, over and over, a piece every 10 ms, and never ends by itself."""
    said: list[bytes] = []
    ended = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))
    said.append(str(listening.getsockname()[1]).encode())

    def speak() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65_536)
            try:
                connection.sendall(said[1])
                while not ended.wait(0.01):
                    connection.sendall(said[2])
            except OSError:
                pass

    thread = threading.Thread(target=speak, daemon=True)
    thread.start()
    yield said
    ended.set()
    listening.close()
    thread.join()


@pytest.mark.parametrize(
    ("first", "then"),
    [(b"", b""), (b"HTTP/1.1 200 OK\r\nX: ", b"y")],
    ids=["silence", "endless headers"],
)
def test_a_receiver_that_takes_for_ever_is_left_in_time(
    webhooks: Webhooks, speaking: list[bytes], monkeypatch, first: bytes, then: bytes
) -> None:
    monkeypatch.setattr(sending, "ATTEMPT_S", 0.2)
    port = int(speaking[0])
    speaking += [first, then]
    hook = webhooks.create_webhook("chat", f"http://127.0.0.1:{port}/hook", ["stage_changed"])
    result = webhooks.test_webhook(hook.webhook_id)
    assert (result.success, result.response_status) == (False, None)
    assert "did not answer within" in result.error


def test_an_answer_counts_by_its_status_though_its_body_never_ends(
    webhooks: Webhooks, speaking: list[bytes], monkeypatch
) -> None:
    monkeypatch.setattr(sending, "ATTEMPT_S", 0.2)
    port = int(speaking[0])
    speaking += [b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\nhello ", b"z"]
    hook = webhooks.create_webhook("chat", f"http://127.0.0.1:{port}/hook", ["stage_changed"])
    result = webhooks.test_webhook(hook.webhook_id)
    assert (result.success, result.response_status) == (True, 200)
    assert result.response_body.startswith("hello ")


def test_only_the_beginning_of_an_answer_is_read(webhooks: Webhooks, speaking: list[bytes]) -> None:
    port = int(speaking[0])
    speaking += [
        b"HTTP/1.1 500 No\r\n\r\n",
        b"<h1>\x00\x1b[31m" + b"x" * 3000,
    ]  # without a length: until it ends, never
    hook = webhooks.create_webhook("chat", f"http://127.0.0.1:{port}/hook", ["stage_changed"])
    result = webhooks.test_webhook(hook.webhook_id)
    assert (result.response_status, result.error) == (500, "Failed to test webhook: the receiver answered 500")
    assert len(result.response_body) <= sending.BODY_BYTES
    assert result.response_body.startswith("<h1>[31mxxx")


@pytest.mark.parametrize(
    "noise", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"\x15\x03\x03\x00\x02\x02\x28", b"HTTP/1.1 abc\r\n\r\n"]
)
def test_what_is_no_http_is_a_failed_attempt(webhooks: Webhooks, noise: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            connection, _ = listening.accept()
            connection.sendall(noise)
            connection.recv(65_536)
            connection.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/hook"
        hook = webhooks.create_webhook("chat", url, ["stage_changed"])
        result = webhooks.test_webhook(hook.webhook_id)
        thread.join()
    assert (result.success, result.response_status) == (False, None)
    assert "could not be told" in result.error


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate that signs itself, and its key in front of it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public = folder / "cert.pem"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = folder / "key.pem"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return public, private


@pytest.mark.parametrize(("name", "delivered"), [(NAME, 1), ("elsewhere.example.test", 0)])
def test_tls_checks_the_name_though_the_address_is_pinned(
    opened: Opening, folder, tls_receiver, monkeypatch, tmp_path: Path, name: str, delivered: int
) -> None:
    public, private = certificate(tmp_path, name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    names: list[str] = []
    context.sni_callback = lambda connection, asked, _: names.append(asked)  # type: ignore[assignment,misc]
    monkeypatch.setenv("SSL_CERT_FILE", str(public))
    sending.trusted.cache_clear()
    with tls_receiver(context) as receiver:
        webhooks = opened(folder, resolve=at("127.0.0.1"))
        hook = webhooks.create_webhook("chat", f"https://{NAME}:{receiver.port}/hook", ["stage_changed"])
        happen(webhooks)
        assert webhooks.deliver() == Round(collected=1, delivered=delivered, failed=1 - delivered)
        assert names == [NAME]
        if not delivered:
            assert "certificate" in webhooks.get_webhook(hook.webhook_id).last_error
    sending.trusted.cache_clear()


def test_the_setting_lists_hosts(opened: Opening, folder, receiver: Receiver, monkeypatch) -> None:
    with pytest.raises(Invalid):
        opened(folder, hosts=None).create_webhook("chat", receiver.url, ["stage_changed"])
    monkeypatch.setenv("MODELYARD_WEBHOOK_HOSTS", "127.0.0.0/8")
    assert opened(folder, hosts=None).create_webhook("chat", receiver.url, ["stage_changed"]).url == receiver.url
