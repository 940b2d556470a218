"""What a node tells about itself: counters, and logs that never flood."""
