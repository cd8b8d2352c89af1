"""One model on one structure: what is asked, the preparation, the replicas, what they cost."""
