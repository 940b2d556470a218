"""The driver: one asyncio interpreter of the core's effects, for real and simulated worlds."""
