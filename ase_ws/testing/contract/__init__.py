"""Does a potential of your own keep the contract that everything here relies on?"""  # noqa: D400

from ase_ws.testing.contract.validate import PotentialContractError, validate_potential

__all__ = ["PotentialContractError", "validate_potential"]
