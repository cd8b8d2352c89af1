"""The main job on the packaged data, from fine-tuning to the report."""
