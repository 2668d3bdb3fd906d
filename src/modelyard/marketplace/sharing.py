"""Packages: written from a listing, and let in from another yard's."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from modelyard.core import plugins
from modelyard.core.area import Area
from modelyard.core.canonical import dumps, plain
from modelyard.core.errors import Conflict, Damaged, Forbidden, Invalid, NotFound, Unavailable, nearest
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.files import draft
from modelyard.core.ids import checked_name
from modelyard.core.instants import Instant
from modelyard.core.models import ModelStage, ModelVersion, References
from modelyard.core.operations import operation
from modelyard.core.packages import signature_of
from modelyard.core.people import checked_person, folded
from modelyard.core.refs import Resource
from modelyard.marketplace import package, rules, signing, store
from modelyard.marketplace.access import known, refused
from modelyard.marketplace.package import Package
from modelyard.marketplace.signing import KeyFile
from modelyard.marketplace.values import Fetched, Packed, Publisher, PublishingKey

TOKEN_LIMIT = 4_096


class Sharing(Area):
    """Packs listed models into signed files, and lets such files of trusted publishers in."""

    @cached_property
    def _keys(self) -> KeyFile:
        return KeyFile(self.store.folder)

    @operation("GET", "/marketplace/key", needs="marketplace.read", scope="anywhere")
    def publishing_key(self) -> PublishingKey:
        """The public key of this yard's packages, to be given to others on a way that they trust.

        >>> from modelyard.marketplace import Marketplace
        >>> Marketplace(folder).publishing_key().public_key.splitlines()[0]
        '-----BEGIN PUBLIC KEY-----'
        """
        return self._keys.published()

    @operation("POST", "/marketplace/publishers", needs="marketplace.write")
    def trust_publisher(self, name: str, public_key: str, user: str) -> Publisher:
        """The publisher whose packages are let in from now on. Nobody is trusted at first sight.

        `public_key` is the PEM text that the publisher's `publishing_key` answers with. Conflict for another key of a
        known name: distrust it first.

        >>> from modelyard.marketplace import Marketplace
        >>> key = Marketplace(folder / "theirs").publishing_key().public_key
        >>> Marketplace(folder / "ours").trust_publisher("fraud team", key, "ana@example.org").name
        'fraud team'
        """
        key = signing.public_key_of(public_key)
        with self.store.work(checked_person(user, "user")) as work:
            publisher = Publisher(
                name=checked_name(name, "publisher"),
                key_id=signing.key_id(key),
                public_key=signing.pem_of(key),
                trusted_by=user,
                trusted_at=work.now,
            )
            if not store.add_publisher(work.rows, publisher):
                raise Conflict(f"{name} or this key is known already. Distrust it first: list them by list-publishers.")
            details = {"key_id": publisher.key_id, "public_key": publisher.public_key}
            resource = Resource("publisher", name)
            work.emit(EventType.PUBLISHER_TRUSTED, resource, details, severity=EventSeverity.WARNING)
        return publisher

    @operation("DELETE", "/marketplace/publishers/{name}", needs="marketplace.write")
    def distrust_publisher(self, name: str, user: str) -> None:
        """Lets no further package of the publisher in; what came in stays.

        >>> from modelyard.marketplace import Marketplace
        >>> ours = Marketplace(folder / "ours")
        >>> key = Marketplace(folder / "theirs").publishing_key().public_key
        >>> _ = ours.trust_publisher("fraud team", key, "ana@example.org")
        >>> ours.distrust_publisher("fraud team", "ana@example.org")
        >>> ours.list_publishers()
        []
        """
        with self.store.work(checked_person(user, "user")) as work:
            if not store.drop_publisher(work.rows, name):
                names = [one.name for one in store.publishers(work.rows)]
                raise NotFound(f"There is no publisher {name!r:.80}. {nearest(name, names)}")
            work.emit(EventType.PUBLISHER_DISTRUSTED, Resource("publisher", name), severity=EventSeverity.WARNING)

    @operation("GET", "/marketplace/publishers", needs="marketplace.read", scope="anywhere")
    def list_publishers(self) -> list[Publisher]:
        """The publishers that are trusted here, by name.

        >>> from modelyard.marketplace import Marketplace
        >>> Marketplace(folder).list_publishers()
        []
        """
        with self.store.reading() as rows:
            return store.publishers(rows)

    @operation("POST", "/marketplace/listings/{listing_id}/package", needs="marketplace.read", scope="anywhere")
    def pack(self, listing_id: str, output_path: str | Path, user: str) -> Packed:
        """The written package of a listing: one signed file with all that another yard needs to let the model in.

        Forbidden, and an event, for a restricted listing that the person has no access to. Every package counts as a
        fetch of the listing.

        >>> from modelyard.marketplace import Marketplace
        >>> from modelyard.registry import ModelRegistry
        >>> market = Marketplace(folder)
        >>> _ = ModelRegistry(folder).register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.org")
        >>> told = {"licence": "MIT", "owner": "ana@example.org", "summary": "Cards"}
        >>> found = market.publish("fraud", "v1.0.0", "ana@example.org", **told)
        >>> market.pack(found.listing_id, folder / "fraud.zip", "ben@example.org").model
        'fraud'
        """
        path = Path(output_path)
        with self.store.reading() as rows:
            listing = known(rows, listing_id)
            asked = store.requests_of(rows, listing_id, folded(checked_person(user, "user")))
        decision = rules.may_have(listing, user, asked, self.store.clock.now())
        if decision.reasons:
            raise refused(self.store, user, "pack", listing_id, decision)
        version = self._area("registry").get_model(listing.model, listing.version)
        if version.digest != listing.digest:
            raise Conflict(f"{listing.model} {listing.version} is not the version that was listed. Publish it anew.")
        head = {
            "listing_id": listing.listing_id,
            "model": listing.model,
            "version": listing.version,
            "digest": listing.digest,
            "licence": listing.licence,
            "owner": listing.owner,
            "stage": version.stage.value,
            "packed_at": self.store.clock.now(),
        }
        texts = {
            package.METADATA: dumps(_told(version), indent=2) + "\n",
            package.CARD: listing.card,
            package.BOM: dumps(self._bill(listing.digest, head), indent=2) + "\n",
            package.APPROVALS: dumps(self._approvals(version), indent=2) + "\n",
            **self._proof(version),
        }
        with draft(path) as part:
            model = self.store.artifacts.fetch(listing.digest)
            package.write(part, model, texts, plain(head), self._keys.signing())
            sha256, size = package.sha256_of(part), part.stat().st_size
            with self.store.work(user) as work:  # first the event: nothing leaves without one
                store.count_fetch(work.rows, listing_id)
                told = {"model": listing.model, "version": listing.version, "digest": listing.digest, "sha256": sha256}
                work.emit(EventType.LISTING_FETCHED, Resource("listing", listing_id), told)
            part.replace(path)
        key_id = self._keys.published().key_id
        return Packed(
            path=str(path), sha256=sha256, size=size, model=listing.model, version=listing.version, key_id=key_id
        )

    @operation("POST", "/marketplace/packages", needs="marketplace.write")
    def receive(self, package_path: str | Path, user: str, *, model: str = "", version: str = "") -> Fetched:
        """The version that a package of a trusted publisher brought, in development, under its own or another name.

        Its signature and digests are checked, its bytes pass the same admission as any upload, and what its publisher's
        log proves is held against it. Forbidden if nobody here trusts who signed it, Invalid if its bytes are refused,
        Conflict if the version exists. Refusals are events.

        >>> from modelyard.marketplace import Marketplace
        >>> (folder / "x.zip").write_bytes(b"no package")
        10
        >>> Marketplace(folder).receive(folder / "x.zip", "ana@example.org")
        Traceback (most recent call last):
        modelyard.core.errors.Damaged: x.zip is damaged: ...
        """
        source = Path(package_path)
        checked_person(user, "user")
        if not source.is_file():
            raise NotFound(f"There is no file {source}. Name a package that `pack` wrote.")
        with self.store.reading() as rows:
            publishers = {one.key_id: one for one in store.publishers(rows)}
        trusted = {key_id: signing.public_key_of(one.public_key) for key_id, one in publishers.items()}
        try:
            with tempfile.TemporaryDirectory(prefix="modelyard-package-") as place:
                found = package.unpack(source, Path(place) / "package", trusted)
                by = publishers[found.key_id]
                draft = _draft_of(found, user, self.store.clock.now())
                draft = replace(draft, name=model or draft.name, version=version or draft.version)
                return self._let_in(found, by, draft, sha256=package.sha256_of(source))
        except (Damaged, Forbidden, Invalid) as error:
            with self.store.work(user) as work:
                told = {"action": "receive", "file": source.name, "reasons": [str(error)[:500]]}
                resource = Resource("package", package.sha256_of(source))
                work.emit(EventType.SECURITY_VIOLATION, resource, told, severity=EventSeverity.WARNING)
            raise

    @operation("POST", "/marketplace/fetch", needs="marketplace.write", remote=False)
    def fetch(
        self, url: str, listing_id: str, user: str, *, token: str = "", model: str = "", version: str = ""
    ) -> Fetched:
        """The version that another modelyard server's listing brought here, as `receive` lets it in.

        `url` is that server's, `token` one that it gave, or @FILE for a file that holds it. There is no route to this: a
        server calls no other because somebody asks it to.

        >>> from modelyard.marketplace import Marketplace
        >>> Marketplace(folder).fetch("file:///etc/passwd", "lst_1", "ana@example.org")
        Traceback (most recent call last):
        modelyard.core.errors.Invalid: 'file:///etc/passwd' is no server's URL. Write it as https://models.example.org.
        """
        with tempfile.TemporaryDirectory(prefix="modelyard-fetch-") as place:
            target = Path(place) / f"{checked_name(listing_id, 'listing')}.zip"
            plugins.load("package_source", "http")(url, listing_id, _secret(token), target)
            return self.receive(target, user, model=model, version=version)

    def _let_in(self, found: Package, publisher: Publisher, draft: ModelVersion, *, sha256: str) -> Fetched:
        manifest, user = found.manifest, draft.created_by
        proved = _is_proved(found)
        origin = {
            "publisher": publisher.name,
            "key_id": publisher.key_id,
            "listing_id": manifest["listing_id"],
            "model": manifest["model"],
            "version": manifest["version"],
            "package": sha256,
            "licence": manifest["licence"],
            "parent": draft.parent,
            "proved": proved,
        }
        artifact = self.store.artifacts.admit(found.model, by=user)
        if artifact.digest != manifest["digest"]:
            raise Damaged(f"The package's model is not the {manifest['digest'][:12]} that its publisher signed.")
        made = replace(
            draft,
            digest=artifact.digest,
            size=artifact.size,
            parent="",  # a version of the publisher's, which is not here
            source=f"marketplace:{publisher.name}/{manifest['model']}:{manifest['version']}",
            metadata={**draft.metadata, "marketplace": origin},
        )
        registered = self._area("registry").register_version(made)
        with self.store.work(user) as work:
            told = {**origin, "digest": artifact.digest, "as": f"{registered.name}:{registered.version}"}
            work.emit(EventType.LISTING_FETCHED, Resource("package", sha256), told)
        return Fetched(
            model=registered.name,
            version=registered.version,
            digest=artifact.digest,
            publisher=publisher.name,
            listing_id=manifest["listing_id"],
            sha256=sha256,
            licence=manifest["licence"],
            proved=proved,
            approvals=tuple(found.json(package.APPROVALS)),
        )

    def _area(self, name: str) -> Any:
        """Another area on the same store, by the plugin table: areas never import each other."""
        return plugins.load("area", name)(self.store)

    def _bill(self, digest: str, head: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self._area("artifacts").bom(digest, head["model"], head["version"], head["licence"])
        return found

    def _approvals(self, version: ModelVersion) -> list[dict[str, Any]]:
        """The approved requests of the version: to which stage, by whom, when."""
        requests = self._area("registry").list_requests(version.name, version.version)
        return [
            {
                "target_stage": one.target_stage.value,
                "digest": one.digest,
                "requested_by": one.requested_by,
                "decided_at": plain(one.decided_at),
                "approvals": plain(one.approvals),
            }
            for one in requests
            if one.status.value == "approved"
        ]

    def _proof(self, version: ModelVersion) -> dict[str, str]:
        """The log's proof that these bytes were registered here; nothing where the event has expired or waits."""
        history = self._area("registry").history(version.name, version.version)
        registered = [one for one in history if one.event_type is EventType.MODEL_REGISTERED]
        same = [one for one in registered if one.details.get("digest") == version.digest]
        if not same:
            return {}
        audit = self._area("audit")
        try:
            return {package.PROOF: audit.prove(same[-1].event_id), package.LOG_KEY: audit.keys.public_file.read_text()}
        except (NotFound, Unavailable):
            return {}


def _told(version: ModelVersion) -> dict[str, Any]:
    """What a package says of a version: all that does not belong to this yard alone."""
    own = ("aliases", "stage", "created_at", "updated_at", "number", "source", "run_id", "size")
    return {name: value for name, value in plain(version).items() if name not in own}


def _draft_of(found: Package, user: str, now: Instant) -> ModelVersion:
    """The version as a package tells it; the registry checks everything in it as it does for everybody."""
    told = found.json(package.METADATA)
    try:
        return ModelVersion(
            name=found.manifest["model"],
            version=found.manifest["version"],
            framework=told["framework"],
            stage=ModelStage.DEVELOPMENT,
            digest="",
            created_by=user,
            created_at=now,
            updated_at=now,
            description=told["description"],
            metrics=dict(told["metrics"]),
            parameters=dict(told["parameters"]),
            tags=tuple(told["tags"]),
            trained_by=str(told["trained_by"] or told["created_by"]),
            training_data=told["training_data"],
            code_version=told["code_version"],
            parent=str(told["parent"]),
            signature=None if told["signature"] is None else signature_of(told["signature"]),
            metadata=dict(told["metadata"]),
            changelog=told["changelog"],
            references=References(**told["references"]),
            example=told["example"],
            environment=dict(told["environment"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"The package's {package.METADATA} describes no version: {error!r:.200}") from error


def _is_proved(found: Package) -> bool:
    """Whether the publisher's log proves that the bytes were registered there; Damaged if it proves something else."""
    proof = found.text(package.PROOF)
    if not proof:
        return False
    shown = plugins.load("proof", "tlog")(proof, found.text(package.LOG_KEY))
    record = shown.record
    right = record.get("event_type") == EventType.MODEL_REGISTERED.value
    if not right or record.get("details", {}).get("digest") != found.manifest["digest"]:
        raise Damaged("The package's proof is of something else than the registration of its model.")
    return True


def _secret(token: str) -> str:
    """The token itself, read from its file where it is written as @FILE."""
    if not token.startswith("@"):
        return token
    try:
        text = Path(token[1:]).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise Invalid(f"The token file {token[1:]!r:.200} cannot be read as one: {type(error).__name__}.") from error
    if len(text) > TOKEN_LIMIT:
        raise Invalid(f"The token file {token[1:]!r:.200} holds no token.")
    return text
