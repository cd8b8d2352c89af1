"""The page of a demonstration."""
