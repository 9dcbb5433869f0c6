"""lab.yaml: its model, how it is loaded and checked."""
