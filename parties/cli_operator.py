"""The platform operator's day: institutions, catalogue, sources, consents, usage."""
