"""Campaigns: many structures, temperatures, seeds and models, resumable after any death.

| file | holds |
| --- | --- |
| `run.py` | `run_campaign`: hands out units, journals what comes back, reports |
| `config.py` | the YAML file |
| `inputs.py` | models, structures and training set, read and checked |
| `units.py` | the units of work: prepare, replicas, blame |
| `journal.py` | `replicas.jsonl` (see `ase_ws.jobs`): one line for each finished replica |
| `state.py` | the folder of a campaign |
| `local.py` | work in this process, or in several on this machine |
| `dask.py` | work on a Dask cluster; the only file that knows Dask |
| `executors.py` | what those have in common |
| `records.py` | structures, preparations and replicas as JSON |
| `single.py` | one model and one structure on a Dask cluster |
| `summary.py`, `progress.py` | one row for each pair; how far it is |
"""

from ase_ws.stability.campaign.config import CampaignConfig, make_config, read_config
from ase_ws.stability.campaign.run import run_campaign

__all__ = ["CampaignConfig", "make_config", "read_config", "run_campaign"]
