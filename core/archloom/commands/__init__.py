"""The commands, a file for each family; `archloom.cli` hangs them on one tree."""
