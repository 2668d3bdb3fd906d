"""Signed notes, checkpoints and proofs as text, against Go's published note and against every kind of damage."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.audit import notes, proofs
from modelyard.audit.merkle import append, fold, inclusion_proof, leaf_hash, number
from modelyard.core.errors import Damaged, Invalid

# The example in the documentation of Go's golang.org/x/mod/sumdb/note, where the format comes from.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_SECRET = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_NOTE = (
    GO_TEXT
    + "\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)

KEY = notes.SigningKey("modelyard/audit/test", bytes(range(32)))
RECORDS = [b'{"n":%d}' % i for i in range(11)]


def proof(index: int = 4, key: notes.SigningKey = KEY) -> str:
    frontier: list[bytes] = []
    hashes: list[bytes] = []
    for size, record in enumerate(RECORDS):
        hashes += append(frontier, size, leaf_hash(record))
    note = key.sign(notes.Checkpoint(origin=key.name, size=len(RECORDS), root=fold(frontier)).text())
    path = inclusion_proof(index, len(RECORDS), lambda subtrees: [hashes[number(*s)] for s in subtrees])
    return proofs.proof_text(RECORDS[index], index, path, note)


def test_gos_own_note_is_opened_and_made_again() -> None:
    key = notes.SigningKey.parse(GO_SECRET)
    assert str(key.public) == GO_KEY
    assert key.text() == GO_SECRET
    assert notes.opened(GO_NOTE, notes.PublicKey.parse(GO_KEY)) == GO_TEXT
    assert key.sign(GO_TEXT) == GO_NOTE


def test_a_witness_signature_beside_ours_does_no_harm() -> None:
    witness = notes.SigningKey("witness.example", bytes(32))
    text = notes.Checkpoint(origin=KEY.name, size=3, root=bytes(32)).text()
    both = KEY.sign(text) + witness.sign(text).rpartition("\n\n")[2]
    assert notes.checkpoint(both, KEY.public).size == 3
    assert notes.opened(both, witness.public) == text
    with pytest.raises(Damaged, match="no signature by"):
        notes.opened(KEY.sign(text), witness.public)


def test_a_log_of_the_same_name_with_another_key_is_another_log() -> None:
    other = notes.SigningKey(KEY.name, bytes(32))
    with pytest.raises(Damaged, match="no signature by"):
        proofs.check_proof(proof(key=other), str(KEY.public))


def test_a_checkpoint_of_another_origin_is_refused() -> None:
    text = notes.Checkpoint(origin="someone/else", size=1, root=bytes(32)).text()
    with pytest.raises(Damaged, match="not one of"):
        notes.checkpoint(KEY.sign(text), KEY.public)


@pytest.mark.parametrize(
    "text", ["", "x\n", "o\n-1\nAAAA\n", "o\n01\nAAAA\n", "o\n1\n!!\n", "o\n1\nAAAA\n", "o\n1\n\n"]
)
def test_a_signed_text_that_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(Damaged):
        notes.checkpoint(KEY.sign(text), KEY.public)


@pytest.mark.parametrize("index", range(len(RECORDS)))
def test_a_proof_shows_its_record(index: int) -> None:
    shown = proofs.check_proof(proof(index), str(KEY.public) + "\n")
    assert (shown.index, shown.size, dict(shown.record)) == (index, 11, {"n": index})


def test_every_changed_character_of_a_proof_is_noticed() -> None:
    text = proof()
    for at, old in enumerate(text):
        for new in {"A", "1", "\n", "", old.swapcase()} - {old}:
            with pytest.raises(Damaged):
                proofs.check_proof(text[:at] + new + text[at + 1 :], str(KEY.public))


def test_every_missing_line_of_a_proof_is_noticed() -> None:
    lines = proof().splitlines(keepends=True)
    for at in range(len(lines)):
        with pytest.raises(Damaged):
            proofs.check_proof("".join(lines[:at] + lines[at + 1 :]), str(KEY.public))


@given(st.text(min_size=1, max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_text_is_a_proof_or_a_clear_error(text: str) -> None:
    for given_text in (text, proof()[: len(text)] + text, text + proof()):
        with pytest.raises(Damaged):
            proofs.check_proof(given_text, str(KEY.public))


@given(st.text(max_size=100))
@settings(max_examples=100, deadline=None)
def test_any_text_is_a_key_or_a_clear_error(text: str) -> None:
    for made in (notes.PublicKey.parse, notes.SigningKey.parse):
        for given_text in (text, "PRIVATE+KEY+" + text, "name+00000000+" + text):
            with pytest.raises(Invalid):
                made(given_text)


def test_a_signing_keys_error_and_repr_show_none_of_it() -> None:
    secret = base64.b64encode(b"\x01" + KEY.seed).decode()
    assert secret not in repr(KEY)
    with pytest.raises(Invalid) as caught:
        notes.SigningKey.parse(KEY.text().replace("audit/test", "audit/other"))
    assert secret not in str(caught.value)
