"""How good a ranking is, by standard measures. No Ray, no Lance, no torch."""
