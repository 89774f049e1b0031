"""The executor that submits runs as Slurm jobs."""
