"""What a configuration of `mace_run_train` means here."""

import pytest
import yaml

from ase_ws.errors import AnsweredError
from ase_ws.training.config import FinetuneConfig
from ase_ws.training.config_files import load_config
from ase_ws.training.from_mace import _NEEDLESS, _TAKEN, SAME, is_of_mace, translated

CONFIG = """
name: my_model
train_file: train.xyz
valid_fraction: 0.05
E0s: "{1: -13.6, 8: -2041.8}"
num_channels: 64
max_L: 2
r_max: 6.0
loss: universal
energy_weight: 10
forces_weight: 100
batch_size: 2
max_num_epochs: 100
eval_interval: 5
scheduler: ExponentialLR
swa: yes
start_swa: 80
swa_energy_weight: 500
lr: 0.005
lr_params_factors: '{"embedding_lr_factor": 0.0001, "readouts_lr_factor": 2.0}'
ema: yes
ema_decay: 0.995
default_dtype: float32
wandb: yes
les_arguments: something.yaml
"""


def test_a_configuration_of_mace(frame_files, monkeypatch):
    monkeypatch.chdir(frame_files)
    text = translated(yaml.safe_load(CONFIG))
    tree = yaml.safe_load(text)
    config = FinetuneConfig.model_validate(tree)
    assert config.data.energy_key == "REF_energy"
    assert config.data.e0s == {"H": -13.6, "O": -2041.8}
    assert config.model.hidden_irreps == "64x0e+64x1o+64x2e"
    assert (config.model.max_ell, config.model.correlation, config.model.r_max) == (3, 3, 6.0)
    assert config.loss.metric == "universal"
    assert config.loss.second == {"energy": 500.0, "forces": 100.0}
    assert config.optimizer.second_stage == 0.8
    assert config.optimizer.second_rate == pytest.approx(0.2)
    assert config.optimizer.rates == {"node_embedding": 0.0001, "readouts": 2.0}
    assert config.optimizer.schedule == "exponential"
    assert config.log == ["wandb"]
    from ase_ws.frames import read_frames

    per_epoch = len(read_frames("train.xyz")) // 2
    assert config.optimizer.max_steps == 100 * per_epoch
    assert config.optimizer.valid_interval == 5 * per_epoch
    assert "# les_arguments: something.yaml has no counterpart" in text
    assert "# name: my_model: --out my_model" in text


def test_fine_tuning_with_replay():
    tree = yaml.safe_load(
        translated(
            {
                "foundation_model": "mp.model",
                "train_file": "absent.xyz",
                "pt_train_file": "mp.xyz",
                "E0s": "IsolatedAtom",
                "lora": True,
                "max_num_epochs": 10,
            }
        )
    )
    config = FinetuneConfig.model_validate(tree)
    assert config.model.base == "mp.model" and config.model.lora_rank == 4
    assert config.replay.train == "mp.xyz" and config.replay.head == "pt_head"
    assert config.replay.labels == "file" and config.data.e0s == "atoms"
    # Of a base model the network is what it is.
    assert "max_ell" not in tree["model"]


def test_it_is_the_answer_to_config(tmp_path, cli):
    (tmp_path / "mace.yaml").write_text("train_file: train.xyz\nr_max: 4.0\nmax_num_epochs: 3\n")
    with pytest.raises(AnsweredError, match="settings of mace_run_train"):
        load_config(tmp_path / "mace.yaml")
    code, out, err = cli("finetune", "--config", tmp_path / "mace.yaml")
    assert code == 2
    assert "settings of mace_run_train" in err and "Traceback" not in err
    answer = tmp_path / "run.yaml"
    answer.write_text(out)
    assert load_config(answer).model.r_max == 4.0
    assert not is_of_mace(yaml.safe_load(out))


def test_every_name_is_one_of_theirs(upstream):
    """And every setting of theirs is translated, needless, or said to have no counterpart."""
    from mace.tools.arg_parser import build_default_arg_parser

    theirs = {
        action.dest.replace("start_swa", "start_stage_two").replace("swa", "stage_two")
        for action in build_default_arg_parser()._actions
    } | {"swa"}
    assert {*SAME, *_NEEDLESS, *_TAKEN} <= theirs
    for dotted in SAME.values():
        section, _, leaf = dotted.rpartition(".")
        fields = FinetuneConfig.model_fields
        if section:
            fields = fields[section].annotation.model_fields
        assert leaf in fields
