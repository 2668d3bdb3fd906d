"""Bills of materials in CycloneDX's JSON (https://cyclonedx.org/docs/1.6/json/): what a model is made of, and its card."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed
from typing import Any

from modelyard.core.instants import from_micros
from modelyard.core.models import PACKAGE_MANIFEST, Artifact, PackageManifest

TEXT_LIMIT = 1 << 20
READ = (PACKAGE_MANIFEST, "requirements.txt")
_PINNED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([A-Za-z0-9][A-Za-z0-9.+!_-]*)")
_SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")
_APPROACH = {"binary": "supervised", "multiclass": "supervised", "regression": "supervised"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a bill of materials is written from."""

    artifact: Artifact
    manifest: PackageManifest | None
    requirements: str
    created_at: int
    created_by: str
    signatures: tuple[str, ...]


def document(facts: Facts, *, name: str, version: str, licence: str) -> dict[str, Any]:
    """The document, the same for the same facts."""
    artifact = facts.artifact
    root = f"artifact:{artifact.digest}"
    packages = [_package(name, found) for name, found in sorted(_environment(facts).items())]
    files = [_file(path, digest) for path, digest in sorted(artifact.members.items())]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'sha256:{artifact.digest}')}",
        "version": 1,
        "metadata": {
            "timestamp": from_micros(facts.created_at).isoformat(),
            "tools": {"components": [{"type": "application", "name": "modelyard", "version": installed("modelyard")}]},
            "component": {
                "type": "machine-learning-model",
                "bom-ref": root,
                "name": name or (facts.manifest.name if facts.manifest else artifact.name),
                "version": version or artifact.digest[:12],
                **({"licenses": [_licence(licence)]} if licence else {}),
                "hashes": [{"alg": "SHA-256", "content": artifact.digest}],
                **({"modelCard": _card(facts.manifest)} if facts.manifest else {}),
                **_pedigree(facts.manifest),
                "properties": _properties(facts),
            },
        },
        "components": files + packages,
        "dependencies": [
            {"ref": root, "dependsOn": sorted(one["bom-ref"] for one in packages)},
            *({"ref": one["bom-ref"]} for one in packages),
        ],
    }


def _environment(facts: Facts) -> Mapping[str, str]:
    if facts.manifest is not None:
        return {name: found for name, found in facts.manifest.environment.items() if name.lower() != "python"}
    lines = (line.partition("#")[0].strip().partition(";")[0].strip() for line in facts.requirements.splitlines())
    pinned = (_PINNED.fullmatch(line) for line in lines)
    return {match[1]: match[2] for match in pinned if match}


def _package(name: str, version: str) -> dict[str, Any]:
    normal = re.sub(r"[-_.]+", "-", name).lower()  # https://packaging.python.org/specifications/name-normalization/
    url = f"pkg:pypi/{normal}@{version}"
    return {"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url}


def _file(path: str, digest: str) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"file:{path}",
        "name": path,
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }


def _card(manifest: PackageManifest) -> dict[str, Any]:
    signature = manifest.signature
    return {
        "modelParameters": {
            "approach": {"type": _APPROACH[signature.task]},
            "task": signature.task,
            "architectureFamily": manifest.framework,
            "inputs": [{"format": f"{spec.name}: {spec.kind}"} for spec in signature.inputs],
            "outputs": [
                {"format": "number" if signature.task == "regression" else f"one of {list(signature.classes)}"}
            ],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                {"type": name, "value": f"{value:g}"} for name, value in sorted(manifest.metrics.items())
            ]
        },
    }


def _pedigree(manifest: PackageManifest | None) -> dict[str, Any]:
    if manifest is None or manifest.primary == manifest.framework:
        return {}
    parity = manifest.parity
    measured = f"by at most {parity.max_difference:g} on {parity.rows:,} rows" if parity else "by an unknown amount"
    return {
        "pedigree": {
            "ancestors": [{"type": "machine-learning-model", "name": f"{manifest.name} ({manifest.framework})"}],
            "notes": f"Exported from {manifest.framework} to {manifest.primary}; their answers differ {measured}.",
        }
    }


def _licence(text: str) -> dict[str, Any]:
    return {"license": {"name": text}} if not _SPDX.fullmatch(text) else {"expression": text}


def _properties(facts: Facts) -> list[dict[str, str]]:
    artifact, parameters = facts.artifact, facts.manifest.parameters if facts.manifest else {}
    found = {
        "modelyard:format": artifact.format,
        "modelyard:admission": artifact.admission,
        "modelyard:size": str(artifact.size),
        "modelyard:created_by": facts.created_by,
        **{f"modelyard:finding:{number}": why for number, why in enumerate(artifact.findings)},
        **{f"modelyard:signature:{number}": key for number, key in enumerate(facts.signatures)},
        **{f"modelyard:parameter:{key}": str(value) for key, value in sorted(parameters.items())},
    }
    return [{"name": key, "value": value} for key, value in found.items()]
