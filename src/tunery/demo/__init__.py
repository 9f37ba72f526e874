"""`tunery demo`: the whole journey on a small task of our own, through the clients that Azure's users have."""
