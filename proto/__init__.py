"""The contract: what may cross a wire, every field with its form."""
