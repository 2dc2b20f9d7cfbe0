"""Measured claims, one runnable file each."""
