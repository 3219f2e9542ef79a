"""One file per verb; `mvjax.cli.main` finds them by name and imports only the one that runs."""
