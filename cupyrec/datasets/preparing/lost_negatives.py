"""Which dense features a transform has robbed of their negative values, which people should be told."""

from __future__ import annotations

from cupyrec.datasets.prepared.manifest import Manifest

# The one transform that takes all values below 0 as 0.
CLIPPING_TRANSFORM = "dlrm"
NOTABLE_SHARE = 0.01


def lost_negatives(content: Manifest) -> dict[str, float]:
    """The share of samples, 0 to 1, whose value was below 0 and counts as 0, by name of features with many of them."""
    if content.dense_transform != CLIPPING_TRANSFORM or content.negatives is None:
        return {}
    shares = {name: count / content.samples for name, count in zip(content.dense, content.negatives, strict=True)}
    return {name: share for name, share in shares.items() if share >= NOTABLE_SHARE}
