"""Room: potentials."""
