"""Pages that explain a study or a comparison: one HTML file each, which loads nothing else."""
