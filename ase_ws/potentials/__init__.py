"""Potentials, and the files that hold them. Other rooms know them by `ase_ws.typing.Potential`.

| module | holds |
| --- | --- |
| `files.py` | `load_potential`, `save_potential`: this package's model files |
| `mace/` | all that knows MACE: the network, its lean form, direct forces, upstream's files |
| `painn.py` | all that knows PaiNN, an extra |
| `base.py` | `PotentialModule`, what can be trained, saved and loaded: the base of all networks |
| `derivatives.py` | forces and stress of any energy |
| `skin.py` | whether edges beyond the cutoff add nothing |
| `heads.py` | which of several levels of theory is meant |
| `architecture.py`, `weights.py`, `provenance.py` | what a file holds: checked before it is used |
"""
