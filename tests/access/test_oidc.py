"""Signed tokens: those of the configured issuer are believed, and nothing that a token says about itself is."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from modelyard import Yard
from modelyard.access.identity import Identities
from modelyard.access.oidc import Issuer, Trust, trust_from
from modelyard.access.rules import Grant
from modelyard.core.errors import Forbidden, Invalid, Unavailable
from modelyard.core.instants import FixedClock

NOW = datetime(2026, 3, 1, tzinfo=UTC)
KEYS = {
    "rsa": ("RS256", rsa.generate_private_key(65537, 2048)),
    "ec": ("ES256", ec.generate_private_key(ec.SECP256R1())),
    "ed": ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
}
WRITERS = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}


def jwk(kid: str, **more: Any) -> dict[str, Any]:
    algorithm, key = KEYS[kid]
    return {**json.loads(WRITERS[algorithm].to_jwk(key.public_key())), "kid": kid, "use": "sig", **more}


class Provider:
    """An issuer on this machine: its discovery document and its keys over real HTTP."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.keys: list[dict[str, Any]] = [jwk(kid) for kid in KEYS]
        self.calls_itself = ""
        self.status = 200
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked.append(self.path)
                known = {
                    "/.well-known/openid-configuration": {
                        "issuer": provider.calls_itself or provider.url,
                        "jwks_uri": f"{provider.url}/keys",
                    },
                    "/keys": {"keys": provider.keys},
                }
                body = json.dumps(known.get(self.path, {})).encode()
                self.send_response(provider.status if self.path in known else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def claims(self, **changed: Any) -> dict[str, Any]:
        at = int(NOW.timestamp())
        told = {
            "iss": self.url,
            "aud": "modelyard",
            "sub": "ann",
            "iat": at,
            "exp": at + 600,
            "groups": ["ml"],
            **changed,
        }
        return {name: value for name, value in told.items() if value is not None}

    def token(self, kid: str = "rsa", headers: dict[str, Any] | None = None, **changed: Any) -> str:
        algorithm, key = KEYS[kid]
        return jwt.encode(self.claims(**changed), key, algorithm, headers={"kid": kid, **(headers or {})})


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider()
    yield made
    made.close()


@pytest.fixture
def trust(provider: Provider) -> Trust:
    roles = {"ml": (Grant("contributor", "fraud"),), "risk": (Grant("approver"),)}
    return Trust(issuer=provider.url, audience="modelyard", roles=roles)


@pytest.mark.parametrize("kid", sorted(KEYS))
def test_a_token_of_each_algorithm_is_believed(provider: Provider, trust: Trust, kid: str) -> None:
    claims = Issuer(trust).claims(provider.token(kid), NOW)
    assert claims.subject == f"{provider.url}#ann"
    assert claims.grants == {Grant("contributor", "fraud")}
    assert provider.asked == ["/.well-known/openid-configuration", "/keys"]


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed_by_hand(header: dict[str, Any], claims: dict[str, Any], key: bytes) -> str:
    text = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}"
    return f"{text}.{b64(hmac.digest(key, text.encode(), hashlib.sha256)) if key else ''}"


def public_pem(kid: str) -> bytes:
    key: Any = KEYS[kid][1]
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


MALLORY = rsa.generate_private_key(65537, 2048)
SHORT = rsa.generate_private_key(65537, 1024)


def foreign(provider: Provider, headers: dict[str, Any]) -> str:
    return jwt.encode(provider.claims(), MALLORY, "RS256", headers=headers)


HOSTILE: dict[str, Callable[[Provider], str]] = {
    "alg none": lambda p: signed_by_hand({"alg": "none", "kid": "rsa"}, p.claims(), b""),
    "alg None, capitalised": lambda p: signed_by_hand({"alg": "NoNe", "kid": "rsa"}, p.claims(), b""),
    "HS256 with the public key": lambda p: signed_by_hand(
        {"alg": "HS256", "kid": "rsa"}, p.claims(), public_pem("rsa")
    ),
    "HS256 with the key as its modulus": lambda p: signed_by_hand(
        {"alg": "HS256", "kid": "rsa"}, p.claims(), jwk("rsa")["n"].encode()
    ),
    "another algorithm of the same key": lambda p: jwt.encode(
        p.claims(), KEYS["rsa"][1], "PS256", headers={"kid": "rsa"}
    ),
    "the key of another family": lambda p: jwt.encode(p.claims(), KEYS["rsa"][1], "RS256", headers={"kid": "ec"}),
    "wrong audience": lambda p: p.token(aud="another"),
    "audience among others that are not ours": lambda p: p.token(aud=["another", "third"]),
    "no audience": lambda p: p.token(aud=None),
    "wrong issuer": lambda p: p.token(iss="https://evil.example"),
    "issuer with a slash more": lambda p: p.token(iss=p.url + "/"),
    "no issuer": lambda p: p.token(iss=None),
    "expired": lambda p: p.token(exp=int(NOW.timestamp()) - 61),
    "no expiry": lambda p: p.token(exp=None),
    "expiry that is no number": lambda p: p.token(exp="never"),
    "expiry beyond all times": lambda p: p.token(exp=1e300),
    "not valid yet": lambda p: p.token(nbf=int(NOW.timestamp()) + 120),
    "issued in the future": lambda p: p.token(iat=int(NOW.timestamp()) + 120),
    "no subject": lambda p: p.token(sub=None),
    "empty subject": lambda p: p.token(sub="  "),
    "subject with a line break": lambda p: p.token(sub="ann\nroot"),
    "unknown key": lambda p: foreign(p, {"kid": "nobody"}),
    "key id that leads elsewhere": lambda p: foreign(p, {"kid": "../../etc/passwd"}),
    "key id with SQL": lambda p: foreign(p, {"kid": "x' UNION SELECT 'key"}),
    "no key id": lambda p: foreign(p, {}),
    "own key in the header": lambda p: foreign(
        p, {"kid": "rsa", "jwk": json.loads(RSAAlgorithm.to_jwk(MALLORY.public_key()))}
    ),
    "jku to another place": lambda p: foreign(p, {"kid": "rsa", "jku": f"{p.url}/evil"}),
    "x5u to another place": lambda p: foreign(p, {"kid": "rsa", "x5u": f"{p.url}/evil"}),
    "critical extension": lambda p: p.token(headers={"crit": ["b64"], "b64": False}),
    "altered claims": lambda p: altered(p.token()),
    "no token at all": lambda _: "a.b.c",
    "three dots of nothing": lambda _: "..",
    "header that is a list": lambda p: f"{b64(b'[]')}.{b64(json.dumps(p.claims()).encode())}.x",
    "too long": lambda p: p.token(filler="x" * 20_000),
    "deep": lambda _: f"{b64(b'{' + b'[' * 5000)}.{b64(b'{}')}.x",
}


def altered(token: str) -> str:
    header, body, signature = token.split(".")
    told = json.loads(base64.urlsafe_b64decode(body + "=="))
    return f"{header}.{b64(json.dumps({**told, 'sub': 'root'}).encode())}.{signature}"


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_hostile_token_is_refused_and_sends_the_server_nowhere(provider: Provider, trust: Trust, name: str) -> None:
    with pytest.raises(Forbidden) as refused:
        Issuer(trust).claims(HOSTILE[name](provider), NOW)
    assert set(provider.asked) <= {"/.well-known/openid-configuration", "/keys"}
    assert "Traceback" not in str(refused.value)


def test_a_symmetric_or_short_key_in_the_key_set_is_passed_over(provider: Provider, trust: Trust) -> None:
    short = json.loads(RSAAlgorithm.to_jwk(SHORT.public_key()))
    provider.keys = [
        {"kty": "oct", "k": b64(b"secret" * 8), "kid": "oct", "alg": "HS256"},
        {**short, "kid": "short"},
        jwk("ec", use="enc"),
        jwk("ed", alg="HS256"),
        jwk("rsa"),
    ]
    issuer = Issuer(trust)
    issuer.claims(provider.token("rsa"), NOW)
    for kid in ("ec", "ed"):
        with pytest.raises(Forbidden):
            issuer.claims(provider.token(kid), NOW)
    with pytest.raises(Forbidden):
        issuer.claims(signed_by_hand({"alg": "HS256", "kid": "oct"}, provider.claims(), b"secret" * 8), NOW)


def test_only_the_configured_algorithms_are_taken(provider: Provider, trust: Trust) -> None:
    from dataclasses import replace

    issuer = Issuer(replace(trust, algorithms=("ES256",)))
    assert issuer.claims(provider.token("ec"), NOW).subject.endswith("#ann")
    with pytest.raises(Forbidden):
        issuer.claims(provider.token("rsa"), NOW)


def test_an_unknown_key_is_looked_for_once_a_minute_and_a_new_one_found(provider: Provider, trust: Trust) -> None:
    seconds = [0.0]
    issuer = Issuer(trust, lambda: seconds[0])
    provider.keys = [jwk("rsa")]
    issuer.claims(provider.token("rsa"), NOW)
    for _ in range(50):
        with pytest.raises(Forbidden):
            issuer.claims(provider.token("ec"), NOW)
    assert provider.asked.count("/keys") == 1
    provider.keys = [jwk("rsa"), jwk("ec")]
    seconds[0] = 61.0
    assert issuer.claims(provider.token("ec"), NOW).subject.endswith("#ann")
    assert provider.asked.count("/keys") == 2


def test_keys_are_read_anew_after_an_hour_and_an_outage_of_the_issuer_is_lived_through(
    provider: Provider, trust: Trust
) -> None:
    seconds = [0.0]
    issuer = Issuer(trust, lambda: seconds[0])
    issuer.claims(provider.token("rsa"), NOW)
    provider.status = 500
    seconds[0] = 4000.0
    issuer.claims(provider.token("rsa"), NOW)
    seconds[0] = 90_000.0
    with pytest.raises(Unavailable):
        issuer.claims(provider.token("rsa"), NOW)
    provider.status, provider.keys = 200, [jwk("ec")]
    seconds[0] = 90_100.0
    with pytest.raises(Forbidden):
        issuer.claims(provider.token("rsa"), NOW)


def test_an_issuer_that_calls_itself_otherwise_is_not_believed(provider: Provider, trust: Trust) -> None:
    provider.calls_itself = "https://login.example.org"
    with pytest.raises(Unavailable, match="calls itself"):
        Issuer(trust).claims(provider.token("rsa"), NOW)


def test_keys_may_stand_in_a_file_beside_the_settings(provider: Provider, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [jwk("ed")]}))
    (tmp_path / "oidc.toml").write_text(
        f'issuer = "{provider.url}"\naudience = "modelyard"\nkeys = "keys.json"\n'
        '[roles]\nml = ["contributor", "approver@fraud"]\n'
    )
    claims = Issuer(trust_from(tmp_path / "oidc.toml")).claims(provider.token("ed"), NOW)
    assert claims.grants == {Grant("contributor"), Grant("approver", "fraud")}
    assert provider.asked == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('issuer = "https://a"', "audience"),
        ('audience = "m"', "issuer"),
        ('issuer = "http://login.example.org"\naudience = "m"', "https"),
        ('issuer = "https://u:p@a"\naudience = "m"', "user"),
        ('issuer = "https://a"\naudience = "m"\nalgorithms = ["HS256"]', "HS256"),
        ('issuer = "https://a"\naudience = "m"\nalgorithms = ["none"]', "none"),
        ('issuer = "https://a"\naudience = "m"\n[roles]\nml = ["boss"]', "boss"),
        ('issuer = "https://a"\naudience = "m"\nkeys = "http://b.example/keys"', "https"),
        ('issuer = "https://a"\naudience = "m"\nsecret = "x"', "secret"),
        ("issuer = ", "TOML"),
    ],
)
def test_a_wrong_statement_of_trust_is_refused_and_named(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "oidc.toml").write_text(text)
    with pytest.raises(Invalid, match=told):
        trust_from(tmp_path / "oidc.toml")


def test_groups_become_roles_in_the_yard_and_changes_are_events(
    provider: Provider, trust: Trust, tmp_path: Path
) -> None:
    clock = FixedClock(NOW)
    with Yard(tmp_path / "yard", clock=clock) as yard:
        identities = Identities(yard.store, Issuer(trust))
        assert identities.guarded()
        first = identities.of(provider.token("rsa"))
        assert first.may("registry.write", "fraud")
        assert not first.may("registry.write")
        clock.advance(5)
        second = identities.of(provider.token("rsa", groups=["risk"]))
        assert second.may("registry.approve")
        assert not second.may("registry.write", "fraud")
        changes = [e.event_type.value for e in yard.audit.query_events(resource_type="user")]
        assert sorted(changes) == ["role_granted", "role_granted", "role_revoked", "user_created"]
        yard.access.disable_user(first.subject, user="root")
        clock.advance(5)
        with pytest.raises(Forbidden):
            identities.of(provider.token("rsa"))


def test_a_subject_of_an_issuer_is_nobody_of_this_yard(provider: Provider, trust: Trust, tmp_path: Path) -> None:
    with Yard(tmp_path / "yard", clock=FixedClock(NOW)) as yard:
        yard.access.grant_role("ann", "admin", created_by="root")
        stranger = Identities(yard.store, Issuer(trust)).of(provider.token("rsa", groups=[]))
        assert stranger.grants == frozenset()
        assert not stranger.may("registry.read", "default")
