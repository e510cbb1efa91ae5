"""Commands that keep a store: back it up, bring it back, say what version it is."""
