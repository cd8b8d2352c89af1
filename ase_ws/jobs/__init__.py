"""Long work that survives a kill: campaigns, labelling and benchmarks stand on these two.

| File | What it holds |
| --- | --- |
| `pool.py` | `Processes`: calls in processes of their own, with messages on the way; `InProcess` |
| `journal.py` | `Journal`: what has finished, one line of JSON each, on the disk at once |
"""
