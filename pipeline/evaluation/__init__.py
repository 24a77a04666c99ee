"""Metrics, collections and reports over run files."""
