"""Files and folders: written whole or not at all, read safely, every mistake in one line."""
