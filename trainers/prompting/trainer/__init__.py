"""What meets Dassl: the trainer, its cfg nodes and settings."""
