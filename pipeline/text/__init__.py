"""Text to token ids to batches: pure functions over strings, offsets and lengths; no model, no files."""
