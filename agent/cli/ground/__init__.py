"""`roamd ground`: the other side."""
