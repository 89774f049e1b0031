"""Measure or estimate time, memory and operations of training and evaluation."""
