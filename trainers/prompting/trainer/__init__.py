"""The interface to Dassl: the trainer, its cfg nodes and its settings."""
