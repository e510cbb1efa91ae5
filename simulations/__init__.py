"""The stories: whole worlds made from one seed, run by the same code that runs in production."""
