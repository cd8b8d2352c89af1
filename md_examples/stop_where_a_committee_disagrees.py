"""Run MD until a committee of models disagrees: the frame to label next.

    python md_examples/stop_where_a_committee_disagrees.py

Three models are fine-tuned on other frames of the packaged CCSD(T) methanol, then MD at 1,500 K
runs until their forces on an atom spread by more than a limit.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ase.build import molecule

from ase_ws import CommitteeCalculator, GuardedCalculator, finetune, run_md
from ase_ws.data import BASE_MODEL, METHANOL_TRAIN
from ase_ws.frames import read_frames
from ase_ws.md import MDResult


def main(
    out: str | Path = "committee", steps: int = 150, max_spread: float = 0.6, md_steps: int = 2000
) -> MDResult:
    """Train the members, run MD; return its result, whose last frame is the one to label."""
    frames = read_frames(METHANOL_TRAIN)
    members = [
        finetune(
            frames[k::3][:20],
            model=BASE_MODEL,
            config={"optimizer": {"max_steps": steps}, "seed": k},
            out=Path(out) / f"member_{k}",
        ).potential
        for k in range(3)
    ]
    guarded = GuardedCalculator(CommitteeCalculator(members), max_spread=max_spread)
    result = run_md(molecule("CH3OH"), guarded, temperature=1500.0, steps=md_steps)
    if result.stopped_by is None:
        print(f"no atom's forces spread by more than {max_spread} eV/Å in {result.time_ps} ps")
    else:
        print(f"after {result.time_ps} ps: {result.stopped_by.message}")
        result.last_frames[-1].write(Path(out) / "label_me.xyz", format="extxyz")
    return result


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) > 1 else main()
