"""Distillation: synthetic rows optimised through an unrolled behavioural cloning."""
