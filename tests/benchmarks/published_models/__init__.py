"""Small models in the kinds that practitioners publish."""
