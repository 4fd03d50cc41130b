"""The write-ahead spool: from an answered call on disk to its entry in Redis."""
