"""Potentials: MACE (`mace/`), PaiNN, and the files that hold them."""
