"""Benchmarks: each measures this project beside its peers in one run, and writes what it found with the command."""
