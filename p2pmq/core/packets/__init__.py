"""Every packet that nodes send each other; importing this fills the registry."""

from p2pmq.core.packets import (
    binding,
    deleting,
    delivering,
    emitting,
    limiting,
    link,
    membership,
    publishing,
    registering,
    replaying,
    replicating,
    requesting,
    scheduling,
)
from p2pmq.core.packets.registry import PACKETS, Packet, Struct

__all__ = [
    "PACKETS",
    "Packet",
    "Struct",
    "binding",
    "deleting",
    "delivering",
    "emitting",
    "limiting",
    "link",
    "membership",
    "publishing",
    "registering",
    "replaying",
    "replicating",
    "requesting",
    "scheduling",
]
