"""The benchmark: publisher, consumer, owner and replicas in processes, and Redis beside them.

It stands on the public API only, as a user's code would, and measures from
outside: what it reports is what a service gets.
"""
