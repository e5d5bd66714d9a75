"""Measured against a loop written by hand."""
