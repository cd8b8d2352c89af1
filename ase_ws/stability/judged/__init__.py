"""The calculator under judgement, at arm's length: its answers, its state, its precision."""
