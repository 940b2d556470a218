"""Message bodies as one packed blob: columns of bodies, checksums, formats and headers.

A blob is packed once, by the publisher's node, and from then on it is what
travels, what is stored and what is delivered; only a consumer unpacks it, or
whoever needs a part of it.

Layout (msgpack): [bodies: [bin, …], checksums: bin (CRC-32 of each body,
little-endian, 4 bytes each), formats: nil | bin (one byte each), headers: nil |
[nil | map, …]]. Unknown trailing columns are ignored.
"""

from __future__ import annotations
