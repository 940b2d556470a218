"""The benchmark: a publisher, an owner and a consumer in three processes, and Redis beside it.

It stands on the public API only, as a user's code would, and measures from
outside: what it reports is what a service gets.
"""
