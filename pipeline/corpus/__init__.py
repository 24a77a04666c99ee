"""Shards and readers: whatever a corpus is kept in, it comes out as `Document` or `Rejected`, one for each row."""
