"""Wire protocols, one file each: JSON names live here and nowhere else."""
