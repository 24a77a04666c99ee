"""The commands, one a file: settings -> one flow -> one JSON line on stdout. No logic, nothing heavy imported."""
