"""The part that is Dassl's: the trainer, its registry and its loaders."""
