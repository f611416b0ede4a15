"""Models on disk: opening, loading, saving, converting and fetching them."""
