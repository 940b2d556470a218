"""The protocol, pure: events in, effects out; no clock, no chance, no I/O of its own."""
