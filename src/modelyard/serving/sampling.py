"""Which answers the payload log keeps, where it keeps a share of them."""

from __future__ import annotations

from zlib import crc32

ALL = 1 << 32


def drawn(share: float, request_id: str) -> bool:
    """Whether an answer is in the sample: the same in every process and for a request that comes again.

    Its request id decides, by a hash that nothing else goes by, so that the sample has the arms, units and rows as the
    traffic has them; a smaller share is a part of a larger one. The hash is a checksum times the golden ratio of 32 bits
    (Knuth, volume 3, 6.4), a quarter of what SHA-256 costs the request, and even for ids that count.

    >>> drawn(1.0, "r1"), drawn(0.0, "r1"), [drawn(0.5, f"r{n}") for n in range(4)]
    (True, False, [True, False, False, False])
    """
    if share >= 1 or share <= 0:
        return share > 0
    return (crc32(request_id.encode("utf-8", "surrogatepass")) * 0x9E3779B1) % ALL < share * ALL
