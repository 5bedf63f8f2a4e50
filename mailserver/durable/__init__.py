"""What must survive a power cut: files replaced as a whole, directory entries synced, group commit.

The only package that calls fsync. Plain synchronous Python; the caller decides on the thread.
Not here: what the files mean.
"""
