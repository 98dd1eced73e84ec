"""Amounts of data in words, the same everywhere: pages, refusals, command line."""

from __future__ import annotations


def size_words(size_bytes: float) -> str:
    """An amount in decimal units: ``8.4 GB``. ``form/static/words.js`` says it alike."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        shown = float(f"{value:.3g}")
        if shown < 1000:
            return f"{shown:g} {unit}"
        value /= 1000
    return f"{value:.4g} TB"
