"""Read everything that a campaign needs before anything is spent on it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ase import Atoms

from ase_ws._version import __version__
from ase_ws.calculators import PotentialCalculator
from ase_ws.errors import UserError
from ase_ws.frames import check_elements, frame_from_atoms, read_frames, read_structure
from ase_ws.md.run import Progress
from ase_ws.md.trajectory_frame import KEPT_INFO
from ase_ws.potentials.files import HeadError, largest_training_force, load_potential
from ase_ws.results.settings import Job, StabilitySettings
from ase_ws.stability.campaign.config import CampaignConfig, split_selection
from ase_ws.stability.campaign.records import atoms_to_dict
from ase_ws.stability.checks.calibration import Calibration
from ase_ws.stability.checks.defaults import checks_for
from ase_ws.stability.trial import Trial

#: (model, structure): how a pair is called in files and messages.
PairKey = tuple[str, str]


@dataclass(frozen=True)
class Model:
    """A model file, known by its content.

    Attributes
    ----------
    name : str
    path : str
        Absolute; workers on other machines read the file there.
    digest : str
        SHA-256 of the file.
    atomic_numbers : tuple of int
    largest_force : float or None
        Largest force of its training set, in eV/Å, where the file tells.
    head : str or None
        Of a multi-head model.
    """

    name: str
    path: str
    digest: str
    atomic_numbers: tuple[int, ...]
    largest_force: float | None
    head: str | None = None


@dataclass(frozen=True, eq=False)
class Pair:
    """One model and one structure, and all that a worker has to know about them."""

    model: Model
    structure: str
    atoms: Atoms
    config: CampaignConfig
    calibration: Calibration | None
    device: str

    @property
    def key(self) -> PairKey:
        """Names of model and structure."""
        return self.model.name, self.structure

    @property
    def jobs(self) -> list[Job]:
        """All replicas."""
        return self.config.jobs()

    def trial(
        self, calculator: PotentialCalculator | None = None, progress: Progress | None = None
    ) -> Trial:
        """Give the steps to take; without a calculator only the report."""
        start = self.atoms.copy()
        start.calc = calculator
        largest = self.config.largest_training_force or self.model.largest_force
        asked = self.config.model_dump(include=set(StabilitySettings.model_fields))
        settings = StabilitySettings.of(**{**asked, "largest_training_force": largest})
        return Trial(
            start,
            settings,
            checks_for(settings, calibration=self.calibration),
            calibration=self.calibration,
            name=self.model.name,
            calculator=PotentialCalculator.__name__,
            progress=progress,
        )

    def calculator(self) -> PotentialCalculator:
        """Load the model, after a look whether it is still the same file.

        Raises
        ------
        UserError
            Another file is there, or none.
        """
        if not Path(self.model.path).is_file():
            raise UserError(
                f"{self.model.path}: no such file where this worker runs; all workers read the "
                "models at the same path, on a file system that they share"
            )
        if digest_of(self.model.path) != self.model.digest:
            raise UserError(
                f"{self.model.path}: not the file that the campaign was started with; put that "
                "one back"
            )
        return PotentialCalculator(
            self.model.path,
            dtype=self.config.dtype,
            device=self.device,
            head=self.model.head,
        )


@dataclass(frozen=True)
class Campaign:
    """All pairs, and what tells this campaign from another.

    Attributes
    ----------
    config : CampaignConfig
    pairs : dict of Pair
        By (model, structure); the model to compare with comes first, as the others wait for it.
    identity : dict
        Plain data; equal where replicas of one campaign may stand for those of the other.
    """

    config: CampaignConfig
    pairs: dict[PairKey, Pair] = field(repr=False)
    identity: dict[str, Any] = field(repr=False)


def load_campaign(config: CampaignConfig, *, device: str = "cpu") -> Campaign:
    """Read models, structures and the training set of a campaign, and check them.

    Raises
    ------
    UserError
        A file that is missing or unreadable, or a structure with an element that a model does
        not know.
    """
    models = [_model(name, path, config.heads.get(name)) for name, path in config.models.items()]
    models.sort(key=lambda model: model.name != config.compare)
    structures: dict[str, Atoms] = {}
    for name, source in config.structures.items():
        for full_name, atoms in _structures(name, source):
            if full_name in structures:
                raise UserError(f"structures: two are called '{full_name}'; rename one")
            structures[full_name] = atoms
    for model in models:
        check_elements(
            [frame_from_atoms(atoms, name) for name, atoms in structures.items()],
            model.atomic_numbers,
            model.path,
        )
    calibration = None if config.calibrate is None else Calibration.from_file(config.calibrate)
    pairs = [
        Pair(model, name, atoms, config, calibration, device)
        for model in models
        for name, atoms in structures.items()
    ]
    settings = config.model_dump(
        mode="json", exclude={"models", "structures", "calibrate", "chunk", "heads"}
    )
    identity = {
        "ase_ws": __version__,
        "models": {model.name: model.digest for model in models},
        "heads": {model.name: model.head for model in models if model.head is not None},
        "structures": {name: _digest_of_atoms(atoms) for name, atoms in structures.items()},
        "calibrate": None if config.calibrate is None else digest_of(_file(config.calibrate)),
        **settings,
    }
    return Campaign(config, {pair.key: pair for pair in pairs}, identity)


def digest_of(path: str) -> str:
    """SHA-256 of a file."""
    with Path(path).open("rb") as file:
        # Not hashlib.file_digest, which came with Python 3.11.
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _digest_of_atoms(atoms: Atoms) -> str:
    return hashlib.sha256(json.dumps(atoms_to_dict(atoms)).encode()).hexdigest()


def _model(name: str, path: str, head: str | None) -> Model:
    path = str(Path(path).absolute())
    if not Path(path).is_file():
        raise UserError(f"{path}: no such model file (model '{name}' of the campaign)")
    try:
        potential = load_potential(path, head=head)
    except HeadError as error:
        wrong = f"has no head '{head}'" if head else "has several heads, and none is named"
        listed = ", ".join(f"'{known}'" for known in error.heads)
        raise HeadError(
            f"{path}: model '{name}' {wrong}: name one of {listed} in the file of the campaign, "
            f"as heads: {{{name}: {error.heads[0]}}}",
            error.heads,
        ) from error
    return Model(
        name,
        path,
        digest_of(path),
        potential.atomic_numbers,
        largest_training_force(path),
        head=potential.head if len(potential.heads) > 1 else None,
    )


def _file(source: str) -> str:
    """Give the file of "FILE@index"."""
    return source if Path(source).is_file() else split_selection(source)[0]


def _structures(name: str, source: str) -> list[tuple[str, Atoms]]:
    file, selection = (source, "") if Path(source).is_file() else split_selection(source)
    if ":" not in selection:
        return [(name, _bare(read_structure(source)))]
    frames = read_frames(source)
    if not frames:
        raise UserError(f"{file}@{selection}: no structures there")
    atoms = [
        Atoms(numbers=f.numbers, positions=f.positions, cell=f.cell, pbc=f.pbc) for f in frames
    ]
    return [(f"{name}_{k}", structure) for k, structure in enumerate(atoms)]


def _bare(atoms: Atoms) -> Atoms:
    """Leave labels behind: they do not matter here."""
    bare = atoms.copy()
    bare.calc = None
    bare.info = {key: atoms.info[key] for key in KEPT_INFO if key in atoms.info}
    return bare
