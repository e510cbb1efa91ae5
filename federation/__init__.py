"""The conversation: who says what, when. Nothing here sees a raw record."""
