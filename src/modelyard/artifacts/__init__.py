"""Bytes by digest: formats, admission by content, verified reading, collection of what is no longer used."""

from modelyard.artifacts.service import ArtifactStore, Collected
from modelyard.core.models import Artifact

__all__ = ["Artifact", "ArtifactStore", "Collected"]
