"""What a curated record must hold to; every check returns findings, each with its reason."""
