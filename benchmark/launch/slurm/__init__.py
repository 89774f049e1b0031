"""Runs as Slurm jobs: the executor, and what it is made of."""
