"""The lean form of a MACE: the same numbers from few, large operations, several times sooner.

Small structures are bound by the number of operations, not by arithmetic. With frozen weights much
of upstream's work can be done once: what depends on the elements alone, the couplings contracted
with the weights, the order of atoms and edges. What is left are a few dozen dense products.

| file | holds |
| --- | --- |
| `model.py` | `LeanMACE`, the potential: reads again what has changed, checked against upstream |
| `weights.py` | the weights as plain dense tensors |
| `read.py`, `elements.py`, `probe.py` | how they are read: blocks are evaluated on unit vectors |
| `plan.py` | what stays the same while the atoms move |
| `network.py`, `edges.py` | the evaluation itself: atoms and layers, edges and their sums |
| `stacked.py` | several of one architecture in one pass, for committees |
| `trainable.py`, `follow.py` | `TrainableMACE`: for training, with gradients to the network |
"""
