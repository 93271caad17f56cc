"""A trained network judged: how good it is, what it says of image files, where it looks, how it is made."""
