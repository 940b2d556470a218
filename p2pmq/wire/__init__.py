"""Bytes and packets: the codec, and the blobs in which message bodies travel and lie on disks."""
