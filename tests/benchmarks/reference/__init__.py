"""How the packaged reference data were made (needs the `[reference]` extra, users do not)."""
