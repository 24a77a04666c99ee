"""Ray lives here and nowhere else: flows join corpus, text, model and store into runs."""
