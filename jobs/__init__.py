"""The commands: one a file, each settings -> one flow -> one JSON line on stdout. No logic, and nothing heavy imported."""
