"""From any ASE-readable file to labelled frames.

A label that is absent stays absent (None here, a mask in the graph): it is never a zero target.
Energies in eV, forces in eV/Å, stress in eV/Å³ with ASE's sign.

| file | holds |
| --- | --- |
| `frame.py` | `Frame`: one structure with its labels |
| `labels.py` | which labels a structure brings, and under which names |
| `files.py`, `reading.py` | the files that were named, all of them |
| `sets.py` | files in HDF5 and LMDB, as mace-torch and fairchem have them |
| `composition.py` | elements, reference energies, parts of a set |
| `summary.py` | what was taken, and what was not |
"""

from ase_ws.frames.composition import (
    check_elements,
    composition,
    elements_of,
    fit_reference_energies,
    split_frames,
)
from ase_ws.frames.frame import Frame, content_hash
from ase_ws.frames.labels import (
    LabelKeys,
    frame_from_atoms,
    has_label,
    not_used,
    present,
    require_labels,
)
from ase_ws.frames.reading import (
    FrameSource,
    name_of,
    paths_of,
    read_atoms,
    read_frames,
    read_structure,
    read_with_atoms,
)

__all__ = [
    "Frame",
    "FrameSource",
    "LabelKeys",
    "check_elements",
    "composition",
    "content_hash",
    "elements_of",
    "fit_reference_energies",
    "frame_from_atoms",
    "has_label",
    "name_of",
    "not_used",
    "paths_of",
    "present",
    "read_atoms",
    "read_frames",
    "read_structure",
    "read_with_atoms",
    "require_labels",
    "split_frames",
]
