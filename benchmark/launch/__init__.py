"""The launcher: plan the runs of a protocol, start them here or as Slurm jobs, and follow them."""
