"""Helpers that know nothing of initialization."""
