"""One file per model; each defines `RECIPE`."""
