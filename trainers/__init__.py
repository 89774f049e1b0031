"""Prompt-learning trainers for Dassl; import `trainers.config` to register them all."""
