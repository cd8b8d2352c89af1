"""Checks that watch a run of MD."""
