"""Kill campaigns at random times, go on each time, and count what was lost or run twice.

    python tests/benchmarks/campaign_kills.py [--kills 20] [--only processes|dask] [--seed 0]
        [--out DIR]

Twice: on this machine the process of the campaign is killed (SIGKILL; it has two workers of its
own); on a Dask cluster of two workers a worker is killed, and now and then the client. A replica
counts as finished once its line is in the journal. What it prints:

- lost: replicas that were in the journal before a kill and not after it;
- twice: replicas that are in the journal more than once at the end;
- delivered twice: replicas that a worker ran although the journal had them;
- missing: replicas that are not there at the end;
- other result: replicas that end otherwise than where nobody is killed;
- orphans: workers that are still there 10 s after the death of their campaign.

Needs psutil and distributed (the extra `dask`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import yaml
from ase.build import molecule
from ase.io import write

from ase_ws.potentials.files import save_potential
from ase_ws.stability.campaign import run_campaign
from ase_ws.testing import tiny_mace

Key = tuple[float, int]


def make_campaign(folder: Path, seed: int) -> Path:
    """200 replicas; the cold half lives, the hot half dies early."""
    weak = tiny_mace(num_interactions=1, correlation=1, scale=(1e-3,))
    save_potential(weak, folder / "weak.safetensors")
    write(folder / "methanol.xyz", molecule("CH3OH"))
    tree = {
        "models": ["weak.safetensors"],
        "structures": ["methanol.xyz"],
        "temperatures": [1, 100],
        "replicas": 100,
        "ps": 0.25,
        "relax_steps": 0,
        "min_ps": 0.0,
        "blame": False,
        "seed": seed,
        "chunk": 4,
    }
    file = folder / f"seed_{seed}.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


def session(file: str, out: str, scheduler: str | None) -> None:
    """What gets killed."""
    told = 0

    def watch(standing) -> None:
        nonlocal told
        if standing.repeated > told:
            with Path(f"{out}.repeated").open("a") as log:
                log.write("1\n" * (standing.repeated - told))
            told = standing.repeated

    if scheduler is None:
        run_campaign(file, out, workers=2, resume=True, watch=watch)
    else:
        run_campaign(file, out, scheduler=scheduler, resume=True, watch=watch)


def start(file: Path, out: Path, scheduler: str | None) -> subprocess.Popen:
    """Begin a session in a process of its own."""
    command = [sys.executable, __file__, "--session", str(file), str(out)]
    return subprocess.Popen(command + ([scheduler] if scheduler else []))


def journal(out: Path) -> list[Key]:
    """Replicas in the journal; a half-written last line does not count."""
    path = out / "replicas.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    records = [json.loads(line)["replica"] for line in lines if line.endswith(b"\n")]
    return [(r["temperature"], r["replica"]) for r in records]


def endings(out: Path) -> dict[Key, tuple]:
    """How each replica ended."""
    found = {}
    for line in (out / "replicas.jsonl").read_text().splitlines():
        r = json.loads(line)["replica"]
        check = None if r["failure"] is None else (r["failure"]["check"], r["failure"]["step"])
        found[r["temperature"], r["replica"]] = (r["seed"], r["simulated_ps"], check)
    return found


class Tally:
    """Counts what the kills have done."""

    def __init__(self) -> None:
        self.kills = Counter()
        self.found = Counter()
        self.replicas = 0
        self.grown: list[int] = []

    def after_kill(self, what: str, before: list[Key], now: list[Key]) -> None:
        """Compare the journal before and after."""
        self.kills[what] += 1
        self.found["lost"] += len(set(before) - set(now))
        self.grown.append(len(now))

    def at_end(self, out: Path, expected: dict[Key, tuple]) -> None:
        """Compare the whole journal with that of the undisturbed campaign."""
        counts, ends = Counter(journal(out)), endings(out)
        self.replicas += len(counts)
        self.found["twice"] += sum(count > 1 for count in counts.values())
        self.found["missing"] += len(expected.keys() - ends.keys())
        self.found["other result"] += sum(ends.get(key) != end for key, end in expected.items())
        log = Path(f"{out}.repeated")
        self.found["delivered twice"] += log.read_text().count("1") if log.exists() else 0

    def tell(self, title: str, seconds: float) -> None:
        """Print the figures."""
        kills = ", ".join(f"{n} of the {what}" for what, n in self.kills.items())
        names = ("lost", "twice", "delivered twice", "missing", "other result", "orphans")
        print(f"{title}: {sum(self.kills.values())} kills ({kills}), {self.replicas} replicas")
        print("   " + ", ".join(f"{name}: {self.found[name]}" for name in names))
        print(f"   replicas in the journal at each kill: {self.grown}; {seconds:.0f} s", flush=True)


def undisturbed(folder: Path, seed: int) -> tuple[Path, dict[Key, tuple]]:
    """The campaign and how its replicas end where nobody is killed."""
    file = make_campaign(folder, seed)
    out = folder / f"undisturbed_{seed}"
    run_campaign(file, out, workers=2, resume=True)
    return file, endings(out)


def kill_processes(folder: Path, kills: int, rng: random.Random) -> Tally:
    """Kill the process of the campaign at random times from its start on."""
    tally, seed = Tally(), 0
    while sum(tally.kills.values()) < kills:
        file, expected = undisturbed(folder, seed)
        out = folder / f"processes_{seed}"
        while True:
            process = start(file, out, None)
            may_kill = sum(tally.kills.values()) < kills
            try:
                let_it_work(process, out, rng, may_kill)
                break
            except subprocess.TimeoutExpired:
                before = journal(out)
                workers = psutil.Process(process.pid).children(recursive=True)
                process.kill()
                process.wait()
                tally.found["orphans"] += count_alive(workers)
                tally.after_kill("campaign", before, journal(out))
        tally.at_end(out, expected)
        seed += 1
    return tally


def kill_on_dask(folder: Path, kills: int, rng: random.Random) -> Tally:
    """Kill a worker at random times, one time in five the client."""
    import dask
    from distributed import Client, LocalCluster

    # A local cluster dismisses a worker that is not back 15 s after its death, or is down again
    # just then: with kills this frequent none would be left.
    dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"})
    tally, seed = Tally(), 0
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        while sum(tally.kills.values()) < kills:
            file, expected = undisturbed(folder, seed)
            out = folder / f"dask_{seed}"
            process = start(file, out, cluster.scheduler_address)
            while True:
                may_kill = sum(tally.kills.values()) < kills
                try:
                    let_it_work(process, out, rng, may_kill)
                    break
                except subprocess.TimeoutExpired:
                    before = journal(out)
                    if rng.random() < 0.2:
                        process.kill()
                        process.wait()
                        tally.after_kill("client", before, journal(out))
                        process = start(file, out, cluster.scheduler_address)
                    # A nanny gives up where its worker dies before it is up.
                    elif pids := client.run(os.getpid, on_error="ignore"):
                        os.kill(rng.choice(sorted(pids.values())), signal.SIGKILL)
                        tally.after_kill("worker", before, journal(out))
            if process.returncode != 0:
                raise SystemExit(f"the campaign ended with exit code {process.returncode}")
            tally.at_end(out, expected)
            seed += 1
    return tally


def let_it_work(process: subprocess.Popen, out: Path, rng: random.Random, may_kill: bool) -> None:
    """Wait for the end of a session; raise `TimeoutExpired` when it is time for a kill.

    One kill in four comes at any time since the last, so also while a session starts; the others
    come at any time in the 4 s after a replica has finished.
    """
    if may_kill and rng.random() < 0.75:
        before = len(journal(out))
        while process.poll() is None and len(journal(out)) == before:
            time.sleep(0.05)
        process.wait(rng.uniform(0.0, 4.0))
    else:
        process.wait(rng.uniform(0.5, 16.0) if may_kill else None)


def count_alive(processes: list[psutil.Process]) -> int:
    """How many are still there after 10 s; a dead one that nobody has buried is not there."""

    def alive() -> int:
        return sum(
            psutil.pid_exists(p.pid) and p.is_running() and p.status() != psutil.STATUS_ZOMBIE
            for p in processes
        )

    end = time.monotonic() + 10.0
    while alive() and time.monotonic() < end:
        time.sleep(0.1)
    return alive()


def main() -> None:
    """Run both and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--only", choices=("processes", "dask"))
    parser.add_argument("--session", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.session:
        file, out, *scheduler = arguments.session
        session(file, out, scheduler[0] if scheduler else None)
        return
    folder = arguments.out or Path(tempfile.mkdtemp(prefix="campaign_kills_"))
    folder.mkdir(parents=True, exist_ok=True)
    for title, kill in (("processes", kill_processes), ("dask", kill_on_dask)):
        if arguments.only not in (None, title):
            continue
        began = time.perf_counter()
        tally = kill(folder, arguments.kills, random.Random(arguments.seed))
        tally.tell(title, time.perf_counter() - began)


if __name__ == "__main__":
    main()
