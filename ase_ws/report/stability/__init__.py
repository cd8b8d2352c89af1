"""The page of stability runs."""
