"""Commands about the runs of a node: list, cancel, resume."""
