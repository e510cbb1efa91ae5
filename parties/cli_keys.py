"""Commands about keys and certificates: rotate, revoke a peer, when they expire."""
