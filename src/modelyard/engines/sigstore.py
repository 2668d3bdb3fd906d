"""Keyless signatures by Sigstore, through the model_signing package."""

from __future__ import annotations

import tempfile
from pathlib import Path

import model_signing.signing
import model_signing.verifying

from modelyard.core.errors import Forbidden, Unavailable


class SigstoreSigner:
    """Signs with a certificate that Sigstore issues for a moment, and verifies by identity and issuer. Needs the network."""

    @staticmethod
    def sign(path: Path, identity_token: str) -> str:
        """The Sigstore bundle of the file or folder, as JSON text."""
        with tempfile.TemporaryDirectory() as place:
            target = Path(place) / "model.sig"
            config = model_signing.signing.Config().use_sigstore_signer(identity_token=identity_token or None)
            try:
                config.sign(path, target)
            except (OSError, ValueError, RuntimeError) as error:
                raise Unavailable(
                    f"Sigstore gave no signature: {error}. Check the network and the identity."
                ) from error
            return target.read_text()

    @staticmethod
    def verify(path: Path, bundle: str, identity: str, issuer: str) -> None:
        """Nothing; Forbidden unless the bundle is of these files by that identity, as that issuer vouches for it."""
        with tempfile.TemporaryDirectory() as place:
            signature = Path(place) / "model.sig"
            signature.write_text(bundle)
            config = model_signing.verifying.Config().use_sigstore_verifier(identity=identity, oidc_issuer=issuer)
            try:
                config.verify(path, signature)
            except (OSError, ValueError, RuntimeError) as error:
                raise Forbidden(f"The keyless signature is not by {identity}: {error}.") from error
