"""A suite as jobs: on this machine or on Slurm's, and results of several machines merged."""
