"""The store: what must outlive a node, on its own disk or, for tests, in memory.

`base` is the port; `lmdb_store` keeps everything in one LMDB file per node, and
`memory` keeps the same contract without the disk.
"""
