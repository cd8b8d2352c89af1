"""All that knows MACE.

| module | holds |
| --- | --- |
| `model.py` | `MACEPotential` and how it is built; the only file that imports mace and e3nn |
| `architecture.py` | what is needed to build one, and whether weights can be of it |
| `lean/` | the lean form: the same numbers from few operations, which the calculators use |
| `direct.py` | forces read out from the features that `features.py` names |
| `upstream.py` | mace-torch's `.model` files, read (`inert.py`, `read_upstream.py`) and written |
"""
