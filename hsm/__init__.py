"""Whatever holds or serves keys."""
